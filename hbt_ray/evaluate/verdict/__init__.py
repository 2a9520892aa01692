"""What was found of one system on one task, as it is saved."""
