"""The log: takes the outcomes of steps, and what validations found, to all trackers of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from hbt_ray.config import without_secrets
from hbt_ray.run_dir import RunDir
from hbt_ray.train.step.loop import StepOutcome
from hbt_ray.train.trackers.async_queue import TrackerQueue
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.mlflow import MLflow
from hbt_ray.train.trackers.resume_state import TrackerPosition, TrackerPositions
from hbt_ray.train.trackers.tensorboard import TensorBoard
from hbt_ray.train.trackers.tracker import Tracker, TrackerRow, flat
from hbt_ray.train.trackers.wandb import WandB

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
        marks, named = TrackerPositions(run.trackers), flat(without_secrets(settings))

        def before(mark: TrackerPosition) -> Iterator[TrackerRow]:
            if mark.step < start - 1:
                yield from (_row(StepOutcome(**row)) for row in run.curve() if row["step"] < start)

        self._feeds = [
            TrackerQueue(name, config.place(name), marks, partial(_KINDS[name], run, config, named, start), before)
            for name in config.use
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        for feed in self._feeds:
            feed.close(failed=kind is not None, seconds=CLOSING_SECONDS)

    def outcome(self, outcome: StepOutcome) -> None:
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


def _row(outcome: StepOutcome) -> TrackerRow:
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
