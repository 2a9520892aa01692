"""Data: sources → prepare → store, and plan → stream. Each part has its own folder."""
