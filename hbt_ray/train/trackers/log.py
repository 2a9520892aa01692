"""The log: takes the outcomes of steps, and what validations found, to all trackers of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from hbt_ray.run import Run
from hbt_ray.train.engine.loop import Outcome
from hbt_ray.train.trackers.config import TrackersConfig
from hbt_ray.train.trackers.mlflow import MLflow
from hbt_ray.train.trackers.tensorboard import TensorBoard
from hbt_ray.train.trackers.tracker import Tracker, flat
from hbt_ray.train.trackers.wandb import WandB

logger = logging.getLogger(__name__)

_KINDS: dict[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class Log:
    """Open from before the first step to after the last.

    Args:
        settings: the run's configuration.
        start: the step that training goes on with.
    """

    def __init__(self, run: Run, config: TrackersConfig, settings: dict[str, Any], start: int) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._last = self._last_dev = start - 1
        for name in config.use:
            made = self._attempt(name, partial(_KINDS[name], run, config, flat(settings), start))
            if made is not None:
                self._trackers[name] = made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, tracker.close)

    def outcome(self, outcome: Outcome) -> None:
        """Of a step; one that is repeated after a restart is the same, and was logged."""
        if outcome.step <= self._last:
            return
        self._last = outcome.step
        values = {
            "loss/all": outcome.loss,
            f"loss/{outcome.kind}": outcome.loss,
            "learning_rate": outcome.learning_rate,
            "gradient_norm": outcome.gradient_norm,
            "speed/pairs_per_second": outcome.pairs_per_second,
            "speed/stall_seconds": outcome.stall_seconds,
            **{f"parts/{name}": value for name, value in outcome.parts.items()},
            **({} if outcome.temperature is None else {"temperature": outcome.temperature}),
        }
        self._send(outcome.step, values)

    def dev(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Of validated checkpoints, by step."""
        for step, row in rows.items():
            if step > self._last_dev:
                self._last_dev = step
                measures = {
                    name: value for name, value in row.items() if isinstance(value, float) and name != "seconds"
                }
                self._send(step, {f"dev/{name}": value for name, value in measures.items()})

    def _send(self, step: int, values: dict[str, float]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, partial(tracker.log, step, values))

    def _attempt(self, name: str, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as error:  # Any server may fail in any way; the run is worth more than its curves.
            self._trackers.pop(name, None)
            logger.warning("%s no longer takes the run's numbers (%s); metrics.jsonl has them all", name, error)
            return None
