"""BM25: ranking by words, the baseline that has learned nothing."""
