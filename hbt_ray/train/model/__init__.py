"""The encoder: from scratch, a folder or the hub."""
