"""The logger: sends rows of training and validation to all trackers of a run, each in a thread of its own.

A tracker that is slow or does not answer delays neither training nor other trackers, and the import of its client,
which takes seconds, overlaps with the start of the workers. RUN/trackers.json holds how far each tracker has come. It
is written after the rows, so a driver that is killed in between repeats the rows of that moment and loses none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from hbt_ray.config import without_secrets
from hbt_ray.errors import redact
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import read_checked_json, with_checksum, write_json
from hbt_ray.train.step.train_step import StepMetrics
from hbt_ray.train.trackers.backends import MLflow, ResumePosition, TensorBoard, Tracker, TrackerRow, WandB
from hbt_ray.train.trackers.config import TrackersConfig

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 60.0
"""How long the end of a run waits for a tracker that does not answer."""
_MAX_ROWS = 100
"""Rows after which the position of a tracker is saved."""
_BACKENDS: dict[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class TrackerLogger:
    """Trackers of one session of a run, open from before the first step until after the last.

    Args:
        settings: fields of the run's configuration.
        start: the step that training continues from.
    """

    def __init__(self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        self._last = start - 1
        positions, flat = ResumeFile(run.trackers), flatten(without_secrets(settings))

        def earlier_rows(position: ResumePosition) -> Iterator[TrackerRow]:
            if position.step < start - 1:
                yield from (_training_row(StepMetrics(**row)) for row in run.curve() if row["step"] < start)

        self._queues = [
            TrackerQueue(
                name,
                config.destination(name),
                positions,
                partial(_BACKENDS[name], run, config, flat, start),
                earlier_rows,
            )
            for name in config.use
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        for queue in self._queues:
            queue.close(failed=kind is not None, seconds=CLOSING_SECONDS)

    def log_step(self, metrics: StepMetrics) -> None:
        """Log a training step; one that is repeated after a restart has the same values and is skipped."""
        if metrics.step > self._last:
            self._last = metrics.step
            self._put(_training_row(metrics))

    def log_validations(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Log rows of the validation record, by step."""
        for step, row in rows.items():
            measures = {f"dev/{name}": value for name, value in row.items() if isinstance(value, float)}
            self._put(TrackerRow(step, measures, is_validation=True))

    def _put(self, row: TrackerRow) -> None:
        for queue in self._queues:
            queue.put(row)


class ResumeFile:
    """Positions of all trackers by destination, in a file that need not exist yet. Used by several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()

    def read(self, destination: str) -> ResumePosition:
        """Raises: DamagedFile, as a tracker without its position would begin a second run."""
        return ResumePosition(**self._read_all().get(destination, {}))

    def save(self, destination: str, position: ResumePosition) -> None:
        with self._lock:
            write_json(self._path, with_checksum({**self._read_all(), destination: asdict(position)}))

    def _read_all(self) -> dict[str, dict[str, Any]]:
        try:
            return read_checked_json(self._path)
        except FileNotFoundError:
            return {}


class TrackerQueue:
    """Rows on their way to one tracker, and the thread that logs them.

    Args:
        destination: where the tracker logs to; see `TrackersConfig.destination`.
        start: makes the tracker from its position, which it may change.
        earlier_rows: rows of earlier sessions that a tracker with this position may lack.
    """

    def __init__(
        self,
        name: str,
        destination: str,
        positions: ResumeFile,
        start: Callable[[ResumePosition], Tracker],
        earlier_rows: Callable[[ResumePosition], Iterable[TrackerRow]],
    ) -> None:
        self._name, self._destination, self._positions = name, destination, positions
        self._start, self._earlier_rows = start, earlier_rows
        self._rows: SimpleQueue[TrackerRow | None] = SimpleQueue()  # None ends it.
        self._failed = self._ended = False
        self._thread = Thread(target=self._run, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def put(self, row: TrackerRow) -> None:
        if not self._ended:
            self._rows.put(row)

    def close(self, *, failed: bool, seconds: float) -> None:
        """Wait until all rows are logged, for a limited time."""
        self._failed = failed
        self._rows.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._ended = True
            logger.warning(
                "%s has not taken the last rows of the run within %g s; metrics.jsonl has all rows, and they are "
                "logged when the run continues",
                self._name,
                seconds,
            )

    def _run(self) -> None:
        try:
            self._log_all()
        except Exception as error:  # A client may raise anything, and the run must go on without its curves.
            logger.warning(
                "%s no longer takes the rows of the run (%s); metrics.jsonl has all rows, and they are logged when the "
                "run continues",
                self._name,
                redact(" ".join(str(error).split()))[:300],
            )
        finally:
            self._ended = True

    def _log_all(self) -> None:
        position = self._positions.read(self._destination)
        tracker = self._start(position)
        self._positions.save(self._destination, position)
        rows, more = list(self._earlier_rows(position)), True
        while True:
            for first in range(0, len(rows), _MAX_ROWS):
                if new := [row for row in rows[first : first + _MAX_ROWS] if position.lacks(row)]:
                    tracker.log(new)
                    position.add(new)
                    self._positions.save(self._destination, position)
            if not more:
                break
            rows, more = self._waiting_rows()
        tracker.close(failed=self._failed)

    def _waiting_rows(self) -> tuple[list[TrackerRow], bool]:
        """All rows in the queue, waiting for at least one, and whether more can follow."""
        rows, row = [], self._rows.get()
        while row is not None:
            rows.append(row)
            try:
                row = self._rows.get_nowait()
            except Empty:
                return rows, True
        return rows, False


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under keys such as `plan.alpha`, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _training_row(metrics: StepMetrics) -> TrackerRow:
    temperature = {} if metrics.temperature is None else {"temperature": metrics.temperature}
    return TrackerRow(
        metrics.step,
        {
            "loss/all": metrics.loss,
            f"loss/{metrics.kind}": metrics.loss,
            "learning_rate": metrics.learning_rate,
            "gradient_norm": metrics.gradient_norm,
            "speed/pairs_per_second": metrics.pairs_per_second,
            "speed/stall_seconds": metrics.stall_seconds,
            **{f"parts/{name}": value for name, value in metrics.parts.items()},
            **temperature,
        },
    )
