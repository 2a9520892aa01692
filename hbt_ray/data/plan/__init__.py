"""The global batch of every step: pure functions that read no data and do not depend on the rank."""
