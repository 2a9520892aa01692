"""Export: the weights of a checkpoint as a SentenceTransformer folder that anyone can load."""

from __future__ import annotations

import json

from hbt_ray.errors import CheckpointError
from hbt_ray.run import Run, published
from hbt_ray.train.checkpoints import checkpoint
from hbt_ray.train.checkpoints.shelf import Shelf
from hbt_ray.train.model.encoder import load
from hbt_ray.train.settings import TrainConfig
from hbt_ray.train.validation.ending import best_step


def export(run: Run) -> int:
    """Write `run.model` from the run's best checkpoint, or the newest where `validation.export` says so or nothing was
    validated. Returns the number of its training steps.

    Raises:
        CheckpointError: there is no checkpoint yet, or the one to export is damaged.
    """
    shelf = Shelf(run.checkpoints)
    newest = shelf.newest()
    if newest is None:
        raise CheckpointError(f"run {run.name!r} has no checkpoint yet; train it first")
    config = TrainConfig.load(run.config)
    best = best_step(config) if config.validation.export == "best" else None
    encoder = load(run.base)
    state = checkpoint.restore_weights(newest[0] if best is None else shelf.path(best), encoder, averaged=True)
    with published(run.model) as folder:
        encoder.save_pretrained(str(folder), create_model_card=False)
        (folder / run.model_steps.name).write_text(json.dumps({"steps": state.step}), encoding="utf-8")
    return state.step
