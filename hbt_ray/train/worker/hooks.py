"""The probe: what may look into a rank from outside while it trains. Training passes one that does nothing."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.data.stream.rank_batch import RankBatch


class Hooks:
    """Is told, on every rank, what is about to happen; it is pickled on its way there."""

    def batch(self, rank: int, batch: RankBatch) -> None:
        """A batch is there, and nothing was done with it yet."""

    def before_update(self, rank: int, step: int) -> None:
        """The gradients are there, the weights are the old ones."""

    def after_update(self, rank: int, step: int) -> None:
        """The weights are the new ones, and nobody was told."""

    def written(self, step: int, path: Path) -> None:
        """A file of a checkpoint that is being written is there; on rank 0, in the thread that writes."""
