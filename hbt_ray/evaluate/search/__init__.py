"""Exact search: shards of documents in Ray actors, one canonical order, and indexes that propose candidates to it."""
