"""Trackers: what a step learned, as curves in TensorBoard, MLflow or Weights & Biases.

They run in the driver, fed by the journal of rank 0: so one tracker sees one continuous run through any number of
worker restarts, steps that are repeated after a restart are not logged twice, and no key has to reach the workers. What
a tracker cannot take is in `metrics.jsonl` all the same, so its failure is a warning and never the end of a run; what
it lacks is made up for when the run goes on.
"""

from hbt_ray.train.trackers.backends import Tracker
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.logger import TrackerLogger

__all__ = ["Tracker", "TrackerLogger", "TrackersConfig"]
