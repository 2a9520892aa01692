"""The feed: brings rows to one tracker, in a thread, as fast as it takes them.

A server that is slow, or that does not answer, then holds up neither the metrics file nor the other trackers, and the
import of its client (seconds) goes on beside the start of the workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from hbt_ray.config import without_secrets
from hbt_ray.errors import redact
from hbt_ray.run_dir import RunDir
from hbt_ray.train.step.train_step import StepMetrics
from hbt_ray.train.trackers.backends import (
    MLflow,
    ResumeFile,
    ResumePosition,
    TensorBoard,
    Tracker,
    TrackerRow,
    WandB,
    flatten,
)
from hbt_ray.train.trackers.config import TrackersConfig

logger = logging.getLogger(__name__)

_LARGEST_BATCH = 100


class TrackerQueue:
    """Of one tracker of a run.

    Args:
        place: where the tracker puts the run; another place does not know it yet.
        start: makes the tracker from its mark, and may change that.
        before: rows of earlier sessions that the tracker may lack.
    """

    def __init__(
        self,
        name: str,
        place: str,
        marks: ResumeFile,
        start: Callable[[ResumePosition], Tracker],
        before: Callable[[ResumePosition], Iterable[TrackerRow]],
    ) -> None:
        self._name, self._place, self._marks = name, place, marks
        self._start, self._before = start, before
        self._rows: SimpleQueue[TrackerRow | None] = SimpleQueue()
        self._failed = self._over = False
        self._thread = Thread(target=self._run, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def give(self, row: TrackerRow) -> None:
        if not self._over:
            self._rows.put(row)

    def close(self, *, failed: bool, seconds: float) -> None:
        """Wait for what is under way, but not for ever."""
        self._failed = failed
        self._rows.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._over = True
            logger.warning(
                "%s has not taken the run's last numbers within %g s; the run goes on without it, metrics.jsonl has "
                "them all, and the run's next session will try again",
                self._name,
                seconds,
            )

    def _run(self) -> None:
        try:
            self._bring()
        except Exception as error:  # Any server may fail in any way; the run is worth more than its curves.
            logger.warning(
                "%s no longer takes the run's numbers (%s); metrics.jsonl has them all, and the run's next session "
                "will try again",
                self._name,
                redact(" ".join(str(error).split()))[:300],
            )
        finally:
            self._over = True

    def _bring(self) -> None:
        mark = self._marks.of(self._place)
        tracker = self._start(mark)
        self._marks.keep(self._place, mark)
        rows, more = list(self._before(mark)), True
        while True:
            for first in range(0, len(rows), _LARGEST_BATCH):
                self._log(tracker, mark, rows[first : first + _LARGEST_BATCH])
            if not more:
                break
            rows, more = self._next()
        tracker.close(failed=self._failed)

    def _log(self, tracker: Tracker, mark: ResumePosition, rows: list[TrackerRow]) -> None:
        if new := [row for row in rows if mark.lacks(row)]:
            tracker.log(new)
            mark.add(new)
            self._marks.keep(self._place, mark)

    def _next(self) -> tuple[list[TrackerRow], bool]:
        """All that waits, at least one, and whether more will come."""
        rows, row = [], self._rows.get()
        while row is not None:
            rows.append(row)
            try:
                row = self._rows.get_nowait()
            except Empty:
                return rows, True
        return rows, False


CLOSING_SECONDS = 60.0
"""How long a run that has ended waits for a tracker that does not answer."""

_KINDS: dict[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class TrackerLogger:
    """Open from before the first step to after the last.

    Args:
        settings: the run's configuration.
        start: the step that training goes on with.
    """

    def __init__(self, run: RunDir, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        self._last = start - 1
        marks, named = ResumeFile(run.trackers), flatten(without_secrets(settings))

        def before(mark: ResumePosition) -> Iterator[TrackerRow]:
            if mark.step < start - 1:
                yield from (_row(StepMetrics(**row)) for row in run.curve() if row["step"] < start)

        self._feeds = [
            TrackerQueue(name, config.place(name), marks, partial(_KINDS[name], run, config, named, start), before)
            for name in config.use
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        for feed in self._feeds:
            feed.close(failed=kind is not None, seconds=CLOSING_SECONDS)

    def outcome(self, outcome: StepMetrics) -> None:
        """Of a step; one that is repeated after a restart is the same, and was given."""
        if outcome.step > self._last:
            self._last = outcome.step
            self._give(_row(outcome))

    def dev(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Of validated checkpoints, by step."""
        for step, row in rows.items():
            measures = {f"dev/{name}": value for name, value in row.items() if isinstance(value, float)}
            self._give(TrackerRow(step, measures, of_validation=True))

    def _give(self, row: TrackerRow) -> None:
        for feed in self._feeds:
            feed.give(row)


def _row(outcome: StepMetrics) -> TrackerRow:
    learned = {} if outcome.temperature is None else {"temperature": outcome.temperature}
    return TrackerRow(
        outcome.step,
        {
            "loss/all": outcome.loss,
            f"loss/{outcome.kind}": outcome.loss,
            "learning_rate": outcome.learning_rate,
            "gradient_norm": outcome.gradient_norm,
            "speed/pairs_per_second": outcome.pairs_per_second,
            "speed/stall_seconds": outcome.stall_seconds,
            **{f"parts/{name}": value for name, value in outcome.parts.items()},
            **learned,
        },
    )
