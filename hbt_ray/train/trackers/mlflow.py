"""MLflow: a run of an experiment, whose id stays in the run's folder, so that a continued run goes on in it."""

from __future__ import annotations

import logging
from typing import Any

from hbt_ray.run import Run
from hbt_ray.train.trackers.config import TrackersConfig


class MLflow:
    """See `Tracker`."""

    def __init__(self, run: Run, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # It tells of every table that it makes.
        self._client = MlflowClient(config.mlflow_uri or f"sqlite:///{run.root / 'mlflow.db'}")
        kept = run.root / "mlflow.id"
        if kept.exists():
            self._id = kept.read_text(encoding="utf-8").strip()
            self._client.update_run(self._id, "RUNNING")
            return
        found = self._client.get_experiment_by_name(config.project)
        experiment = found.experiment_id if found else self._client.create_experiment(config.project)
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        for name, value in settings.items():
            self._client.log_param(self._id, name, str(value)[:500])
        kept.write_text(self._id, encoding="utf-8")

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)
