"""The page of a search: an answer, figures and all trials."""
