"""What the driver sends to every rank. Ray pickles it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.checkpoint.format import CheckpointInfo
from hbt_ray.train.config import TrainConfig


class Hooks:
    """Hooks into a rank's training, for tests; these do nothing."""

    def on_batch(self, rank: int, batch: RankBatch) -> None:
        """A batch arrived; nothing was done with it yet."""

    def before_update(self, rank: int, step: int) -> None:
        """The gradients of a step are complete; the weights are still the old ones."""

    def after_update(self, rank: int, step: int) -> None:
        """The weights are the new ones; the step was not recorded yet."""

    def on_checkpoint_file(self, step: int, path: Path) -> None:
        """A file of a checkpoint is complete; on rank 0, in the thread that writes."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A run as its ranks see it; equal on all of them."""

    config: TrainConfig
    """With absolute paths: a rank has another working directory than the driver."""
    stop_step: int
    """Steps after which this session ends; at most `config.optimiser.steps`."""
    plan_identity: dict[str, Any]
    """`Plan.identity`, stored in checkpoints."""
    checkpoint: CheckpointInfo | None
    """The checkpoint that the driver verified before it started the ranks."""
    metrics_actor: ActorHandle
    """A `MetricsActor`."""
    hooks: Hooks
    """Hooks for tests."""
