"""Export: the weights of a checkpoint as a SentenceTransformer folder that anyone can load."""

from __future__ import annotations

from hbt_ray.errors import CheckpointError
from hbt_ray.run import Run, published
from hbt_ray.train.checkpoints import checkpoint
from hbt_ray.train.checkpoints.shelf import Shelf
from hbt_ray.train.model.encoder import load


def export(run: Run) -> int:
    """Write `run.model` from the run's newest checkpoint. Returns the number of its training steps.

    Raises:
        CheckpointError: there is no checkpoint yet, or the newest is damaged.
    """
    newest = Shelf(run.checkpoints).newest()
    if newest is None:
        raise CheckpointError(f"run {run.name!r} has no checkpoint yet; train it first")
    encoder = load(run.base)
    state = checkpoint.restore_weights(newest[0], encoder, averaged=True)
    with published(run.model) as folder:
        encoder.save_pretrained(str(folder), create_model_card=False)
    return state.step
