"""The loss: InfoNCE and its terms, exact over all ranks."""
