"""The stream: from the plan's rows to tokens in the training process."""
