"""Training: a model, a loss and an engine in plain torch; what runs them on a cluster is Ray Train."""
