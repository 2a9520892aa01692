"""Hard negatives: passages that only seem to answer a question."""
