"""The way from the rows of the plan to token ids in the training process."""
