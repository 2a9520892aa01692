"""Data: sources → prepare → store, and plan → stream. Each room is a folder."""
