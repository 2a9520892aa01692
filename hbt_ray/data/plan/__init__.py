"""Which global batch a step trains on: pure functions that read no data and know no rank."""
