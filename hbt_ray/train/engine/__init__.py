"""One rank's work at each step, in plain torch."""
