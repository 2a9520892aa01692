"""Trackers: the curves of a run in TensorBoard, MLflow or Weights & Biases.

They run in the driver and take the rows that rank 0 sends to the metrics actor. So one tracker sees one continuous run
through any number of worker restarts, and the workers need no API key. Each has a thread of its own: a tracker that is
slow or does not answer delays neither training nor other trackers. All rows are in `metrics.jsonl` as well, so the
failure of a tracker is a warning, and rows that a tracker lacks are logged when the run continues. RUN/trackers.json
holds the position of each tracker. It is written after the rows, so a driver that is killed in between logs the last
rows twice and loses none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic, time
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self
from uuid import uuid4

from hbt_ray.config import Config, without_secrets
from hbt_ray.errors import ConfigError, redact
from hbt_ray.markdown import inline
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import ObjectPath, read_checked_json, write_checked_json
from hbt_ray.train.step.train_step import StepMetrics

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 60.0
"""Longest wait at the end of a run for a tracker that does not answer."""
_UPLOAD_SECONDS = 30.0
"""Longest wait for more rows before the files of a tracker are uploaded to an object store."""
_MAX_ROWS = 50
"""Rows that are logged together. A request to an MLflow server may have 1,000 metrics, and a row has at most 13."""
_MAX_PARAMS = 100
"""Most parameters of one request to an MLflow server."""
_MAX_PARAM_CHARACTERS = 500
"""Longest value of a parameter that every MLflow server accepts."""
_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "tensorboard": (("tensorboardX",), "tensorboardX"),
    "mlflow": (("mlflow",), "hbt-ray[mlflow]"),
    "wandb": (("wandb",), "hbt-ray[wandb]"),
}
"""Tracker → modules that it needs, and the package to install."""
_positions_lock = Lock()  # The threads of all trackers rewrite one file.


class TrackersConfig(Config):
    """Destinations of the curves of a run."""

    use: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Any of tensorboard (files in RUN/tensorboard), mlflow and wandb (both need an extra)."""
    mlflow_uri: str = ""
    """URI of an MLflow tracking server or database; by default the file RUN/mlflow.db."""
    project: str = "hbt_ray"
    """Name of the MLflow experiment, or of the project of Weights & Biases."""

    def destination(self, name: str) -> str:
        """Key of a tracker's position. A continued run goes on in the same destination and starts anew in another."""
        uri = f" {without_secrets(self.mlflow_uri)}" if name == "mlflow" else ""
        return name if name == "tensorboard" else f"{name}{uri} {self.project}"

    def check_packages(self) -> None:
        """Check that the packages of all trackers are installed.

        Raises:
            ConfigError: a package is missing.
        """
        for name in self.use:
            modules, package = _PACKAGES[name]
            if name == "mlflow" and not self.mlflow_uri.startswith(("http", "databricks")):
                modules += ("sqlalchemy", "alembic")  # To write into a database without a server.
            if missing := [module for module in modules if find_spec(module) is None]:
                raise ConfigError(
                    f"trackers.use names {name}, but {' and '.join(missing)} is not installed; run "
                    f"`pip install '{package}'`, or remove {name} from trackers.use",
                    code="MISSING_PACKAGE",
                )


class TrackerRow(NamedTuple):
    """Values of a training step, or of the validation of the checkpoint at this step."""

    step: int
    values: dict[str, float]
    is_validation: bool = False


@dataclass(slots=True)
class TrackerPosition:
    """How far a tracker has logged a run."""

    id: str = ""
    """The tracker's id of the run; empty before it has one."""
    step: int = -1
    """Newest logged training step."""
    validated: list[int] = field(default_factory=list)
    """Steps whose validation is logged. Results may come out of order, so the newest alone does not suffice."""

    def lacks(self, row: TrackerRow) -> bool:
        return row.step not in self.validated if row.is_validation else row.step > self.step

    def add(self, row: TrackerRow) -> None:
        if row.is_validation:
            self.validated.append(row.step)
        else:
            self.step = row.step


class Tracker(Protocol):
    """A tracker of one run. It is made from its position, which it may change, and lives in one thread."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: Mapping[str, Any], position: TrackerPosition
    ) -> None: ...

    def log(self, rows: Sequence[TrackerRow]) -> None:
        """Log rows. When this returns, they must have left this process: it may be killed at any time."""

    def close(self, *, failed: bool) -> None:
        """End the session, after an error if `failed`. The run may be continued later."""


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir runs`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: Mapping[str, Any], position: TrackerPosition
    ) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import text

        # Earlier files may hold rows that were written after the position. The start of a session hides them.
        purge = position.step + 1
        position.validated = [step for step in position.validated if step < purge]
        folder = run.local_root / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # Not `SummaryWriter`: it hands events to a thread, and its `flush` does not wait for that thread.
        self._writer = EventsWriter(str(folder / "events"), f".{purge}")
        self._write(purge, session_log=SessionLog(status=SessionLog.START))
        rows = "".join(f"|{name}|{inline(str(value))}|\n" for name, value in settings.items())
        self._write(purge, summary=text("configuration", f"|key|value|\n|---|---|\n{rows}"))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time(), step=step, **content))

    def log(self, rows: Sequence[TrackerRow]) -> None:
        from tensorboardX.summary import scalar

        for row in rows:
            for name, value in row.values.items():
                self._write(row.step, summary=scalar(name, value))
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class MLflow:
    """A run of an MLflow experiment. A continued run reopens it."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: Mapping[str, Any], position: TrackerPosition
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("mlflow", "alembic"):  # They log every migration of the database.
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(config.mlflow_uri or f"sqlite:///{run.local_root / 'mlflow.db'}")
        if position.id:
            self._client.update_run(position.id, "RUNNING")
        else:
            experiment = self._client.get_experiment_by_name(config.project)
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(config.project)
            position.id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            params = [Param(name, str(value)[:_MAX_PARAM_CHARACTERS]) for name, value in settings.items()]
            for first in range(0, len(params), _MAX_PARAMS):
                self._client.log_batch(position.id, params=params[first : first + _MAX_PARAMS])
        self._id = position.id

    def log(self, rows: Sequence[TrackerRow]) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        self._client.log_batch(
            self._id, [Metric(name, value, now, row.step) for row in rows for name, value in row.values.items()]
        )

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class WandB:
    """A run of Weights & Biases. With WANDB_MODE=offline it writes files into RUN/wandb, for `wandb sync`."""

    def __init__(
        self, run: RunDir, config: TrackersConfig, settings: Mapping[str, Any], position: TrackerPosition
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
            dir=str(run.local_root),
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off", **options),
        )
        # A step metric of our own: W&B's must rise, and would drop validations, which end later than their step.
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[TrackerRow]) -> None:
        for row in rows:
            self._run.log({"step": row.step, **row.values})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


_FILES = {"tensorboard": "tensorboard", "mlflow": "mlflow.db", "wandb": "wandb"}
"""Tracker → file or folder that it writes below the run's local root."""


class Mirror:
    """What a tracker writes on this machine, copied to a run in an object store; for other runs it does nothing."""

    def __init__(self, run: RunDir, name: str) -> None:
        self._run, self._name = run, name
        self._uploaded: dict[Path, tuple[int, int]] = {}

    def download(self) -> None:
        """Fetch the file of an earlier session, which the tracker continues. Files in folders are never continued."""
        if isinstance(self._run.root, ObjectPath):
            self._run.local_root.mkdir(parents=True, exist_ok=True)
            if (self._run.root / self._name).exists():
                (self._run.root / self._name).download(self._run.local_root / self._name)

    def upload_changes(self) -> None:
        """Upload the files that changed since the last call."""
        if not isinstance(self._run.root, ObjectPath):
            return
        local = self._run.local_root / self._name
        for path in [local] if local.is_file() else sorted(local.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            status = path.stat()
            state = status.st_size, status.st_mtime_ns
            if self._uploaded.get(path) != state:
                (self._run.root / path.relative_to(self._run.local_root).as_posix()).upload(path)
                self._uploaded[path] = state


_TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class TrackerLogger:
    """Trackers of one session of a run, open from before the first step until after the last."""

    def __init__(self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        self._last = start - 1
        flat = flatten(without_secrets(settings))
        self._threads = [TrackerThread(name, run, config, flat, start) for name in config.use]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        for thread in self._threads:
            thread.close(failed=kind is not None)

    def log_step(self, metrics: StepMetrics) -> None:
        """Log a training step; one that is repeated after a restart has the same values and is skipped."""
        if metrics.step > self._last:
            self._last = metrics.step
            self._put(_training_row(metrics))

    def log_validations(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        for step, row in rows.items():
            measures = {f"dev/{name}": value for name, value in row.items() if isinstance(value, float)}
            self._put(TrackerRow(step, measures, is_validation=True))

    def _put(self, row: TrackerRow) -> None:
        for thread in self._threads:
            if thread.is_alive():
                thread.rows.put(row)


class TrackerThread(Thread):
    """The thread that logs the rows of one tracker."""

    def __init__(self, name: str, run: RunDir, config: TrackersConfig, settings: Mapping[str, Any], start: int) -> None:
        super().__init__(daemon=True, name=name)
        self._run_dir, self._config, self._settings, self._start_step = run, config, settings, start
        self._failed = False
        self.rows: SimpleQueue[TrackerRow | None] = SimpleQueue()
        """Rows to log; None ends them."""

    def close(self, *, failed: bool) -> None:
        """Wait until all rows are logged, for `CLOSING_SECONDS` at most."""
        self._failed = failed
        self.rows.put(None)
        self.join(CLOSING_SECONDS)
        if self.is_alive():
            self._warn(f"has not taken the last rows of the run within {CLOSING_SECONDS:g} s")

    def run(self) -> None:
        try:
            self._log_rows()
        except Exception as error:  # A client may raise anything, and the run must go on without its curves.
            self._warn(f"no longer takes the rows of the run ({redact(' '.join(str(error).split()))[:300]})")

    def _warn(self, problem: str) -> None:
        rest = "metrics.jsonl has all rows, and they are logged when the run continues"
        logger.warning("%s %s; %s", self.name, problem, rest)

    def _log_rows(self) -> None:
        destination = self._config.destination(self.name)
        position = TrackerPosition(**self._read_positions().get(destination, {}))
        mirror = Mirror(self._run_dir, _FILES[self.name])
        mirror.download()
        tracker = _TRACKERS[self.name](self._run_dir, self._config, self._settings, position)
        self._save_position(destination, position)

        def log(rows: list[TrackerRow]) -> None:
            if new := [row for row in rows if position.lacks(row)]:
                tracker.log(new)
                mirror.upload_changes()  # Before the position counts.
                for row in new:
                    position.add(row)
                self._save_position(destination, position)

        # Rows of earlier sessions that this tracker lacks; those from `_start_step` on arrive in the queue.
        missed = [row for row in self._run_dir.curve() if position.step < row["step"] < self._start_step]
        for first in range(0, len(missed), _MAX_ROWS):
            log([_training_row(StepMetrics(**row)) for row in missed[first : first + _MAX_ROWS]])
        while rows := self._next_rows():
            log(rows)
        tracker.close(failed=self._failed)
        mirror.upload_changes()

    def _next_rows(self) -> list[TrackerRow]:
        """Wait for at least one row and return those in the queue; empty after the last one.

        For a run in an object store more rows are awaited, since each call uploads the tracker's files.
        """
        rows: list[TrackerRow] = []
        deadline = monotonic() + (_UPLOAD_SECONDS if isinstance(self._run_dir.root, ObjectPath) else 0.0)
        while len(rows) < _MAX_ROWS:
            try:
                row = self.rows.get(timeout=max(0.0, deadline - monotonic()) if rows else None)
            except Empty:
                break
            if row is None:
                self.rows.put(None)  # For the next call.
                break
            rows.append(row)
        return rows

    def _read_positions(self) -> dict[str, dict[str, Any]]:
        """Destination → position. A damaged file is an error: without its position a tracker would begin anew."""
        try:
            return read_checked_json(self._run_dir.trackers)
        except FileNotFoundError:
            return {}

    def _save_position(self, destination: str, position: TrackerPosition) -> None:
        with _positions_lock:
            positions = {**self._read_positions(), destination: asdict(position)}
            write_checked_json(self._run_dir.trackers, positions)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under keys such as `plan.alpha`, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _training_row(metrics: StepMetrics) -> TrackerRow:
    values = {
        "loss/all": metrics.loss,
        f"loss/{metrics.kind}": metrics.loss,
        "learning_rate": metrics.learning_rate,
        "gradient_norm": metrics.gradient_norm,
        "speed/pairs_per_second": metrics.pairs_per_second,
        "speed/stall_seconds": metrics.stall_seconds,
        **{f"parts/{name}": value for name, value in metrics.parts.items()},
    }
    if metrics.temperature is not None:
        values["temperature"] = metrics.temperature
    return TrackerRow(metrics.step, values)
