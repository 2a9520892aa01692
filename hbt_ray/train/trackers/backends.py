"""The trackers themselves: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from hbt_ray.markdown import inline
from hbt_ray.run_dir import RunDir
from hbt_ray.train.trackers.config import TrackersConfig

_MAX_METRICS = 1_000
"""Most metrics of one request to an MLflow server."""
_MAX_PARAMS = 100
"""Most parameters of one request to an MLflow server."""
_MAX_PARAM_CHARACTERS = 500
"""Longest value of a parameter that every MLflow server accepts."""


class TrackerRow(NamedTuple):
    """Values of a training step, or of the validation of the checkpoint at this step."""

    step: int
    values: dict[str, float]
    is_validation: bool = False


@dataclass(slots=True)
class ResumePosition:
    """What a tracker has logged of a run."""

    id: str = ""
    """The tracker's id of the run; empty before it has one."""
    step: int = -1
    """The last training step."""
    validated: list[int] = field(default_factory=list)
    """Steps of the validations."""

    def lacks(self, row: TrackerRow) -> bool:
        return row.step not in self.validated if row.is_validation else row.step > self.step

    def add(self, rows: Iterable[TrackerRow]) -> None:
        for row in rows:
            if row.is_validation:
                self.validated.append(row.step)
            else:
                self.step = row.step

    def rewind(self, step: int) -> None:
        """Forget everything after `step`."""
        self.step = min(self.step, step)
        self.validated = [done for done in self.validated if done <= self.step]


class Tracker(Protocol):
    """A tracker of one run; it lives in one thread."""

    def log(self, rows: Sequence[TrackerRow]) -> None:
        """Log at least one row. Training rows come in the order of steps, validations later than their step.

        When this returns, the rows must have left this process: it may be killed at any time.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """The session of the run ended, with or without an error; the run may be continued."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir runs`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, position: ResumePosition
    ) -> None:
        from tensorboardX import SummaryWriter

        # Earlier files may hold steps after the checkpoint that training continues from. `purge_step` hides them.
        position.rewind(start - 1)
        purge = position.step + 1
        self._writer = SummaryWriter(str(run.root / "tensorboard"), purge_step=purge, filename_suffix=f".{purge}")
        rows = "".join(f"|{name}|{inline(str(value))}|\n" for name, value in settings.items())
        self._writer.add_text("configuration", f"|key|value|\n|---|---|\n{rows}", purge)

    def log(self, rows: Sequence[TrackerRow]) -> None:
        for row in rows:
            for name, value in row.values.items():
                self._writer.add_scalar(name, value, row.step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class MLflow:
    """A run of an MLflow experiment, which a continued run goes on with."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, position: ResumePosition
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("mlflow", "alembic"):  # They log every migration of the database.
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(config.mlflow_uri or f"sqlite:///{run.root / 'mlflow.db'}")
        if position.id:
            self._id = position.id
            self._client.update_run(self._id, "RUNNING")
            return
        experiment = self._client.get_experiment_by_name(config.project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(config.project)
        position.id = self._id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        params = [Param(name, str(value)[:_MAX_PARAM_CHARACTERS]) for name, value in settings.items()]
        for first in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _MAX_PARAMS])

    def log(self, rows: Sequence[TrackerRow]) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        metrics = [Metric(name, value, now, row.step) for row in rows for name, value in row.values.items()]
        for first in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self._id, metrics[first : first + _MAX_METRICS])

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class WandB:
    """A run of Weights & Biases. With WANDB_MODE=offline it writes files into RUN/wandb, for `wandb sync`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, position: ResumePosition
    ) -> None:
        import wandb

        position.id = position.id or uuid4().hex[:8]
        # W&B's process dies with the driver, and loses what it has not flushed: 15 seconds by default. Older clients
        # lack the setting.
        flush = "x_transaction_log_flush_interval"
        options = {flush: 1.0} if flush in wandb.Settings.model_fields else {}
        self._run = wandb.init(
            project=config.project,
            name=run.name,
            id=position.id,
            resume="allow",
            dir=str(run.root),
            config=settings,
            settings=wandb.Settings(silent=True, console="off", **options),
        )
        # A step metric of our own: W&B's must rise, and would drop validations, which end later than their step.
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[TrackerRow]) -> None:
        for row in rows:
            self._run.log({"step": row.step, **row.values})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
