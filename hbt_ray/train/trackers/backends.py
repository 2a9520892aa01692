"""The tracker: what all three have in common."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from hbt_ray.markdown import inline
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import read_checked_json, with_checksum, write_json
from hbt_ray.train.trackers.config import TrackersConfig


class TrackerRow(NamedTuple):
    """Numbers of a step, or of the checkpoint after so many steps."""

    step: int
    values: dict[str, float]
    of_validation: bool = False


class Tracker(Protocol):
    """Takes numbers by step; lives in one thread."""

    def log(self, rows: Sequence[TrackerRow]) -> None:
        """At least one row. Those of training come in the order of steps, validations come later than their steps.

        They are out of this process when this returns: it may be killed at any time.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """The run ended, well or not; it may be continued."""
        ...


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `plan.alpha: 0.5`, the way they are written on the command line."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@dataclass(slots=True)
class ResumePosition:
    """Of one tracker."""

    id: str = ""
    """The tracker's own for this run; empty before it knows the run."""
    step: int = -1
    """The last one that it has."""
    validated: list[int] = field(default_factory=list)
    """Checkpoints whose measures it has."""

    def lacks(self, row: TrackerRow) -> bool:
        return row.step not in self.validated if row.of_validation else row.step > self.step

    def add(self, rows: Iterable[TrackerRow]) -> None:
        for row in rows:
            if row.of_validation:
                self.validated.append(row.step)
            else:
                self.step = row.step

    def back_to(self, step: int) -> None:
        """What comes after `step` is gone."""
        self.step = min(self.step, step)
        self.validated = [done for done in self.validated if done <= self.step]


class ResumeFile:
    """The file at `path`, which need not be there yet; shared by threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()

    def of(self, place: str) -> ResumePosition:
        """Raises: DamagedFile if the file was changed; another run of the tracker is not begun without being asked."""
        return ResumePosition(**self._read().get(place, {}))

    def keep(self, place: str, mark: ResumePosition) -> None:
        with self._lock:
            write_json(self._path, with_checksum({**self._read(), place: asdict(mark)}))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            return read_checked_json(self._path)
        except FileNotFoundError:
            return {}


class TensorBoard:
    """See `Tracker`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, mark: ResumePosition
    ) -> None:
        from tensorboardX import SummaryWriter

        # A reader hides what earlier files have from that step on. They may hold steps beyond the checkpoint that
        # training goes on from, made with other settings.
        mark.back_to(start - 1)
        purge = mark.step + 1
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


_LARGEST_REQUEST = 1_000
"""Metrics; a server takes no more."""
_LONGEST_VALUE = 500
"""Characters of a parameter that every server takes."""


class MLflow:
    """See `Tracker`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, mark: ResumePosition
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


_FLUSH_SECONDS = "x_transaction_log_flush_interval"
"""A setting that older clients lack."""


class WandB:
    """See `Tracker`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int, mark: ResumePosition
    ) -> None:
        import wandb

        mark.id = mark.id or uuid4().hex[:8]
        # W&B's own process dies with the driver, and with it what it has not written: by default that of 15 seconds.
        prompt = {name: 1.0 for name in (_FLUSH_SECONDS,) if name in wandb.Settings.model_fields}
        self._run = wandb.init(
            project=config.project,
            name=run.name,
            id=mark.id,
            resume="allow",
            dir=str(run.root),
            config=settings,
            settings=wandb.Settings(silent=True, console="off", **prompt),
        )
        # A step of our own: theirs must rise, and would drop every validation, which ends later than it began.
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[TrackerRow]) -> None:
        for row in rows:
            self._run.log({"step": row.step, **row.values})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
