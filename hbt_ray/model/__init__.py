"""Models: one way for every command to find, check, build and load an encoder or a cross-encoder.

Weights are read from safetensors, and no code that comes with a model is run. A broken folder is a `ModelError` of one
line, before the model is used.
"""
