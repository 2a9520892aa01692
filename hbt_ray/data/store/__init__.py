"""The store: items on disk or on object storage, read by column; beside it, negatives mined in it."""
