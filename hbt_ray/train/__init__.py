"""Training: loss and training step in plain torch, run on a cluster by Ray Train."""
