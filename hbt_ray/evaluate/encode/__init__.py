"""Texts to vectors: the encoder under judgement, the pool of actors that holds it, and what is kept of its work."""
