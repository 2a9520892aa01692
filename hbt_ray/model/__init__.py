"""Models: find, check, build and load an encoder or a cross-encoder, in the same way for every command.

Weights are read from safetensors, and no code that comes with a model is run. A broken folder raises a `ModelError` of
one line before the model is used.
"""
