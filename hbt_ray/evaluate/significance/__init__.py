"""Whether two systems differ by more than chance. Pure functions of per-query values."""
