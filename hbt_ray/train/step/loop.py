"""The training loop over local batches, in plain torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.step.optimizer import rate
from hbt_ray.train.step.train_step import TrainStep


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step did, equal on all ranks but for the two times."""

    step: int
    kind: str
    language: str
    loss: float
    learning_rate: float
    gradient_norm: float
    pairs_per_second: float
    stall_seconds: float
    """How long the step waited for its batch."""
    parts: dict[str, float] = field(default_factory=dict)
    """Of the loss, where it has several."""
    temperature: float | None = None
    """Where it is learned."""


def train(
    learner: TrainStep, batches: Iterator[RankBatch], record: Callable[[StepOutcome], None], save: Callable[[int], None]
) -> None:
    """Learn from every batch; `record` its outcome; offer every finished step to `save`."""
    num_rows = sum(learner.sizes)
    begin = time.perf_counter()
    for batch in batches:
        arrived = time.perf_counter()
        learned = learner.learn(batch)
        end = time.perf_counter()
        record(
            StepOutcome(
                step=batch.step,
                kind=batch.kind,
                language=batch.language,
                loss=learned.loss,
                learning_rate=rate(learner.config, batch.step),
                gradient_norm=learned.gradient_norm,
                pairs_per_second=num_rows / (end - begin),
                stall_seconds=arrived - begin,
                parts=learned.parts if len(learned.parts) > 1 else {},
                temperature=learned.temperature,
            )
        )
        begin = end
        save(batch.step + 1)
