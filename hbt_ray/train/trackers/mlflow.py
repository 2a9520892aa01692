"""MLflow: a run of an experiment, in which a continued run goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from hbt_ray.run_dir import RunDir
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.resume_state import TrackerPosition
from hbt_ray.train.trackers.tracker import TrackerRow

_LARGEST_REQUEST = 1_000
"""Metrics; a server takes no more."""
_LONGEST_VALUE = 500
"""Characters of a parameter that every server takes."""


class MLflow:
    """See `Tracker`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, mark: TrackerPosition
    ) -> None:
        # Nobody asked for reports on the use of MLflow to its makers, and its migrations are no news.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(config.mlflow_uri or f"sqlite:///{run.root / 'mlflow.db'}")
        if mark.id:
            self._id = mark.id
            self._client.update_run(self._id, "RUNNING")
            return
        found = self._client.get_experiment_by_name(config.project)
        experiment = found.experiment_id if found else self._client.create_experiment(config.project)
        mark.id = self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        named = [Param(name, str(value)[:_LONGEST_VALUE]) for name, value in settings.items()]
        for first in range(0, len(named), 100):  # A server takes no more at once.
            self._client.log_batch(self._id, params=named[first : first + 100])

    def log(self, rows: Sequence[TrackerRow]) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        metrics = [Metric(name, value, now, row.step) for row in rows for name, value in row.values.items()]
        for first in range(0, len(metrics), _LARGEST_REQUEST):
            self._client.log_batch(self._id, metrics[first : first + _LARGEST_REQUEST])

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
