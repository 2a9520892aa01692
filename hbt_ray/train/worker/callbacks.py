"""What one rank does between two steps: it tells the driver, makes checkpoints, and heeds deadlines and notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ray

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.checkpoint.manager import CheckpointManager
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.step.loop import StepOutcome
from hbt_ray.train.validation.callback import ValidationCallback
from hbt_ray.train.worker.hooks import Hooks
from hbt_ray.train.worker.metrics_file import MetricsFile
from hbt_ray.train.worker.preemption import PreemptionAction, PreemptionMonitor
from hbt_ray.train.worker.prometheus import TrainingGauges
from hbt_ray.train.worker.watchdog import Watchdog


class StepCallbacks:
    """All ranks call the same for the same steps.

    Args:
        settings: those of `trainer.fit`.
        start: the step that training goes on with.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        config: TrainConfig,
        rank: int,
        start: int,
        keeper: CheckpointManager,
        watch: ValidationCallback | None,
    ) -> None:
        self._config, self._rank, self._start, self._stop = config, rank, start, settings["stop"]
        self._keeper, self._watch = keeper, watch
        self._journal, self._probe = settings["journal"], settings["probe"]
        self._gauges = TrainingGauges(config.name)
        self._metrics = MetricsFile(config.run.metrics)
        if rank == 0:
            self._metrics.cut(start)
        self._notice = PreemptionMonitor(rank, start)
        journal, patience = self._journal, config.workers.deadline_seconds
        self._deadline = Watchdog(
            patience, lambda step, where: ray.get(journal.stall.remote(rank, step, where), timeout=10)
        )

    def watched(self, batches: Iterator[RankBatch]) -> Iterator[RankBatch]:
        """The batches; from now on there is a deadline."""
        probe: Hooks = self._probe
        self._deadline.beat(self._start)
        for batch in batches:
            probe.batch(self._rank, batch)
            yield batch

    def record(self, outcome: StepOutcome) -> None:
        """After the weights changed."""
        self._probe.after_update(self._rank, outcome.step)
        if self._rank == 0:
            row = asdict(outcome)
            self._metrics.add(row)
            self._journal.write.remote(row)
            self._gauges.show(outcome)
        self._deadline.beat(outcome.step + 1)

    def save(self, step: int) -> None:
        """After `step` steps of the run: make a checkpoint if it is time for one, or the time left is short."""
        if step % self._config.checkpoints.every == 0 or step == self._stop:
            self._save(step)
        if step < self._stop:
            self._heed(step)

    def end(self) -> None:
        """After the last step: wait for all that is under way."""
        self._deadline.beat(self._stop)
        self._keeper.wait()
        self._deadline.rest()
        if self._watch:
            self._watch.finish()
        ray.get(self._journal.flush.remote())  # What was written may still be under way when this process ends.

    def close(self) -> None:
        """After the last step, or after what ended training before it."""
        self._metrics.flush()

    def _save(self, step: int) -> None:
        # Before the checkpoint, which may replace one that is still being validated.
        if self._watch and step != self._stop and self._watch.due(step):
            self._deadline.rest()  # Validation has a limit of its own.
            self._watch.stop_at(step)
        self._deadline.beat(step)  # Storage may be what a rank is stuck in.
        self._metrics.flush()  # Before the checkpoint counts: the steps before it are never trained again.
        self._keeper.save(step, validation=self._watch.ask(step) if self._watch else False)
        self._deadline.beat(step)

    def _heed(self, step: int) -> None:
        answer = self._notice.heed(step)
        if answer is PreemptionAction.GO_ON:
            return
        begin = time.monotonic()
        if self._keeper.saved_at == step:
            self._keeper.wait()
        else:
            self._metrics.flush()
            self._keeper.save(step, at_once=True)
        self._notice.saved(time.monotonic() - begin)
        if answer is PreemptionAction.HOLD:
            self._deadline.rest()
            self._notice.wait(self._config.workers.preemption_grace_seconds)
        self._deadline.beat(step)
