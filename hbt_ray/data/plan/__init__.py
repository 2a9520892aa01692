"""The plan: which global batch a step trains on. Pure functions; nothing here reads data or knows a rank."""
