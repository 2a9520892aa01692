"""The workflow: the stages as the commands and the demo run them, each with what it tells a person on the way."""
