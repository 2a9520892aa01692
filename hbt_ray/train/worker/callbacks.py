"""Callbacks of one rank between two steps: metrics, checkpoints, validation, watchdog, preemption, hooks for tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.checkpoint.format import CheckpointInfo
from hbt_ray.train.checkpoint.manager import CheckpointManager
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.step.train_step import StepMetrics
from hbt_ray.train.validation.callback import ValidationCallback
from hbt_ray.train.worker.metrics import MetricsFile, TrainingGauges
from hbt_ray.train.worker.preemption import PreemptionAction, PreemptionMonitor
from hbt_ray.train.worker.watchdog import Watchdog

_REPORT_TIMEOUT_SECONDS = 10


class Hooks:
    """Hooks into a rank's training, for tests; these do nothing."""

    def on_batch(self, rank: int, batch: RankBatch) -> None:
        """Called when a batch has arrived, before its step."""

    def before_update(self, rank: int, step: int) -> None:
        """Called when the gradients of a step are complete, before the weights change."""

    def after_update(self, rank: int, step: int) -> None:
        """Called when the weights have changed, before the step is recorded."""

    def on_checkpoint_file(self, step: int, path: Path) -> None:
        """Called on rank 0, in the thread that writes, when a file of a checkpoint is complete."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of a run for its ranks, equal on all of them. The driver sends them pickled."""

    config: TrainConfig
    """Configuration with absolute paths, since a rank has another working directory than the driver."""
    stop_step: int
    """Steps after which this session ends; at most `config.optimiser.steps`."""
    plan_identity: dict[str, Any]
    """`Plan.identity`, stored in checkpoints."""
    checkpoint: CheckpointInfo | None
    """The checkpoint that the driver verified before it started the ranks."""
    metrics_actor: ActorHandle
    """Handle of the run's `MetricsActor`."""
    hooks: Hooks
    """Hooks for tests."""


class StepCallbacks:
    """Callbacks of one rank. All ranks call the same methods for the same steps."""

    def __init__(
        self,
        settings: WorkerSettings,
        rank: int,
        start_step: int,
        checkpoints: CheckpointManager,
        validation: ValidationCallback | None,
    ) -> None:
        self._settings, self._config, self._rank, self._start_step = settings, settings.config, rank, start_step
        self._checkpoints, self._validation = checkpoints, validation
        self._gauges = TrainingGauges(self._config.name)
        self._metrics_file = MetricsFile(self._config.run.metrics)
        if rank == 0:
            self._metrics_file.truncate(start_step)
        self._preemption = PreemptionMonitor(rank, start_step)
        self._watchdog = Watchdog(self._config.workers.deadline_seconds, self._report_stall)

    def watch(self, batches: Iterator[RankBatch]) -> Iterator[RankBatch]:
        """Pass the batches on. The watchdog runs from the wait for the first one."""
        self._watchdog.start(self._start_step)
        for batch in batches:
            self._settings.hooks.on_batch(self._rank, batch)
            yield batch

    def on_step(self, metrics: StepMetrics) -> None:
        """Record a step after the weights changed."""
        self._settings.hooks.after_update(self._rank, metrics.step)
        if self._rank == 0:
            row = asdict(metrics)
            self._metrics_file.add(row)
            self._settings.metrics_actor.add.remote(row)
            self._gauges.set(metrics)
        self._watchdog.start(metrics.step + 1)

    def on_step_end(self, step: int) -> None:
        """Make a checkpoint after `step` steps if it is due or if a preemption was announced."""
        if step % self._config.checkpoints.every == 0 or step == self._settings.stop_step:
            self._save(step)
        if step < self._settings.stop_step:
            self._poll_preemption(step)

    def on_train_end(self) -> None:
        """Wait for everything in progress after the last step."""
        self._watchdog.start(self._settings.stop_step)
        self._checkpoints.wait()
        self._watchdog.pause()
        if self._validation:
            self._validation.finish()
        ray.get(self._settings.metrics_actor.flush.remote())  # Rows may still be on their way when this process ends.

    def close(self) -> None:
        """Write what is pending, whether training ended or failed."""
        self._metrics_file.flush()

    def _report_stall(self, step: int, place: str) -> None:
        stall = self._settings.metrics_actor.add_stall.remote(self._rank, step, place)
        ray.get(stall, timeout=_REPORT_TIMEOUT_SECONDS)

    def _save(self, step: int) -> None:
        # Before the checkpoint, which may replace one that is still being validated.
        if self._validation and step != self._settings.stop_step and self._validation.schedule.due(step):
            self._watchdog.pause()  # Validation has its own timeout.
            self._validation.should_stop(step)
        self._watchdog.start(step)  # The rank may get stuck in storage.
        self._metrics_file.flush()  # Before the checkpoint counts: the steps before it are never trained again.
        self._checkpoints.save(step, validation=self._validation.report_option(step) if self._validation else False)
        self._watchdog.start(step)

    def _poll_preemption(self, step: int) -> None:
        action = self._preemption.poll(step)
        if action is PreemptionAction.CONTINUE:
            return
        begin = time.monotonic()
        if self._checkpoints.last_saved_step == step:  # The checkpoint that was due is being written.
            self._checkpoints.wait()
        else:
            self._metrics_file.flush()
            self._checkpoints.save(step, blocking=True)
        self._preemption.mark_saved(time.monotonic() - begin)
        if action is PreemptionAction.HOLD:
            self._watchdog.pause()
            self._preemption.wait(self._config.workers.preemption_grace_seconds)
        self._watchdog.start(step)
