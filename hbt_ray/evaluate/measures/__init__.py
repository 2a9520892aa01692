"""What a ranking is worth, and what it owes to languages. Pure functions of ranks."""
