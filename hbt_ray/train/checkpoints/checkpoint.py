"""The checkpoint: weights, optimiser, the next step and the plan that led there.

    weights.safetensors   the encoder
    optimiser.pt          moments of AdamW; read with `weights_only`, so it cannot run code
    checkpoint.json       next step, plan identity, SHA-256 of the two files; written last

There is no generator state and no iterator state: random numbers and batches are functions of the step.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from hbt_ray.errors import CheckpointError
from hbt_ray.train.engine.learner import Learner

WEIGHTS, OPTIMISER, STATE = "weights.safetensors", "optimiser.pt", "checkpoint.json"


@dataclass(frozen=True, slots=True)
class State:
    """What a checkpoint says of itself."""

    step: int
    """The next step: so many are done."""
    plan: dict[str, Any]
    """`Plan.identity`."""


def save(folder: Path, learner: Learner, step: int, plan: dict[str, Any]) -> None:
    """Write a checkpoint into an empty folder."""
    save_model(learner.encoder, str(folder / WEIGHTS))
    torch.save(learner.optimiser.state_dict(), folder / OPTIMISER)
    checksums = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMISER)}
    state = {"step": step, "plan": plan, "sha256": checksums}
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


def inspect(folder: Path) -> State:
    """Check a checkpoint whole and say what it holds.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        found = {name: _sha256(folder / name) for name in state["sha256"]}
        step, plan = state["step"], state["plan"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(_damaged(folder, f"{type(error).__name__}: {error}")) from None
    for name, checksum in state["sha256"].items():
        if found[name] != checksum:
            raise CheckpointError(_damaged(folder, f"{name} is not what was written (cut short or changed)"))
    return State(step, plan)


def restore(folder: Path, learner: Learner) -> State:
    """Bring a learner to where the checkpoint was made.

    Raises:
        CheckpointError: the checkpoint is damaged, or is of another encoder.
    """
    state = restore_weights(folder, learner.encoder)
    learner.optimiser.load_state_dict(torch.load(folder / OPTIMISER, weights_only=True, map_location="cpu"))
    return state


def restore_weights(folder: Path, encoder: nn.Module) -> State:
    """The same for the weights alone."""
    state = inspect(folder)
    try:
        load_model(encoder, str(folder / WEIGHTS))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: of another encoder ({error}); start a run of another name") from None
    return state


def _damaged(folder: Path, what: str) -> str:
    return f"{folder}: damaged checkpoint: {what}. Restore it from a copy, or start a run of another name"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
