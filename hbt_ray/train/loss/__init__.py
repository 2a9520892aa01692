"""What is minimised, exact over all ranks."""
