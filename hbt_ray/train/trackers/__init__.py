"""Trackers: the measures of a run as curves in TensorBoard, MLflow or Weights & Biases.

They run in the driver and take the rows that rank 0 sends to the metrics actor. So one tracker sees one continuous run
through any number of worker restarts, steps that are repeated after a restart are not logged twice, and the workers
need no API key. All rows are in `metrics.jsonl` as well, so the failure of a tracker is a warning and does not end the
run. Rows that a tracker lacks are logged when the run continues.
"""
