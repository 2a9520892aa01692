"""All commands: importing the modules that define them fills `app`."""

from __future__ import annotations

from hbt_ray.cli import data, doctoring, indexing, judging, submitting, training, tuning
from hbt_ray.cli.app import app

__all__ = ["app", "data", "doctoring", "indexing", "judging", "submitting", "training", "tuning"]
