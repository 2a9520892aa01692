"""The checkpoint: a folder with all that a run needs to go on.

    weights.safetensors   the encoder; of an adapted one only the adapters, as its base lies in the run
    loss.safetensors      the learned temperature, if there is one
    average.safetensors   the averaged weights, if there are any
    optimiser.pt          moments of AdamW; read with `weights_only`, so it cannot run code
    checkpoint.json       next step, plan identity, world size, SHA-256 of the other files and of itself; written last

There is no generator state and no iterator state: random numbers and batches are functions of the step.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hbt_ray.errors import CheckpointError, DamagedFile
from hbt_ray.storage import file_sha256, read_checked_json, with_checksum, write_json
from hbt_ray.train.step.optimizer import restore_optimiser
from hbt_ray.train.step.train_step import TrainStep

WEIGHTS, LOSS, AVERAGE = "weights.safetensors", "loss.safetensors", "average.safetensors"
OPTIMISER, STATE = "optimiser.pt", "checkpoint.json"
STEP_NAME = r"step-(\d+)"
"""Folders of this name hold the checkpoint of this step."""


@dataclass(frozen=True, slots=True)
class State:
    """What a checkpoint says of itself."""

    step: int
    """The next step: so many are done."""
    plan: dict[str, Any]
    """`Plan.identity`."""
    world_size: int = 1
    """Ranks that made it."""
    num_averaged: int = 0
    """Steps in the average of the weights."""
    files: dict[str, str] = field(default_factory=dict)
    """Name → SHA-256."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a checkpoint holds, as copies: training may go on while they are written."""

    state: State
    tensors: dict[str, dict[str, Tensor]]
    """File → name → values."""
    optimiser: dict[str, Any]


def snapshot(learner: TrainStep, step: int, plan: dict[str, Any]) -> Snapshot:
    """Copies in this machine's memory of what the learner is after `step` steps."""
    average = learner.average
    tensors = {
        WEIGHTS: held(learner.encoder),
        LOSS: dict(learner.objective.state_dict()),
        AVERAGE: average.values if average else {},
    }
    copies = {file: _copied(some) for file, some in tensors.items() if some}
    state = State(step, plan, len(learner.sizes), average.num_updates if average else 0)
    optimiser = _copied(learner.optimiser.state_dict())
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # The copies were only asked for.
    return Snapshot(state, copies, optimiser)


def write(folder: Path, taken: Snapshot, written: Callable[[Path], None] = lambda path: None) -> None:
    """Write a checkpoint into an empty folder.

    Args:
        written: is told of every file once it is there.
    """
    for name, tensors in taken.tensors.items():
        save_file(tensors, str(folder / name))
        written(folder / name)
    with (folder / OPTIMISER).open("wb") as file:  # Given a path, torch says of a full disk "unexpected pos".
        torch.save(taken.optimiser, file)
    written(folder / OPTIMISER)
    state = taken.state
    record = {
        "step": state.step,
        "plan": state.plan,
        "world_size": state.world_size,
        "num_averaged": state.num_averaged,
        "files": {name: file_sha256(folder / name) for name in (*taken.tensors, OPTIMISER)},
    }
    write_json(folder / STATE, with_checksum(record))
    written(folder / STATE)


def inspect(folder: Path) -> State:
    """Check a checkpoint whole and say what it holds.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    try:
        state = State(**read_checked_json(folder / STATE))
        checksums = {name: file_sha256(folder / Path(name).name) for name in state.files}
    except (OSError, DamagedFile, TypeError) as error:
        raise CheckpointError(_damaged(folder, f"{type(error).__name__}: {error}")) from None
    if not {WEIGHTS, OPTIMISER} <= checksums.keys():
        raise CheckpointError(_damaged(folder, f"{STATE} names no {WEIGHTS} or no {OPTIMISER}"))
    for name, checksum in state.files.items():
        if checksums[name] != checksum:
            raise CheckpointError(_damaged(folder, f"{name} is not what was written (cut short or changed)"))
    if (match := re.fullmatch(STEP_NAME, folder.name)) and int(match[1]) != state.step:
        raise CheckpointError(_damaged(folder, f"{STATE} is of step {state.step}: the folder was renamed or copied"))
    return state


def restore(folder: Path, learner: TrainStep) -> State:
    """Bring a learner to where the checkpoint was made.

    Raises:
        CheckpointError: the checkpoint is damaged, or is of another encoder, loss or optimiser.
    """
    state = restore_weights(folder, learner.encoder)
    _into(folder, LOSS, learner.objective.state_dict(), state)
    if learner.average is not None:
        if AVERAGE not in state.files:
            raise CheckpointError(
                f"{folder}: has no average of the weights; set optimiser.average to null, or start anew"
            )
        learner.average.load(_tensors(folder, AVERAGE), state.num_averaged)
    try:
        saved = torch.load(folder / OPTIMISER, weights_only=True, map_location="cpu")
        restore_optimiser(learner.optimiser, saved)
    except (pickle.UnpicklingError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {OPTIMISER} is of another optimiser, or no plain one: {error}") from None
    return state


def restore_weights(folder: Path, encoder: nn.Module, *, averaged: bool = False) -> State:
    """The same for the weights alone; those averaged over the steps, where asked for and there.

    Raises:
        CheckpointError: the checkpoint is damaged, or is of another encoder.
    """
    state = inspect(folder)
    _into(folder, WEIGHTS, held(encoder), state)
    if averaged and AVERAGE in state.files:
        values = held(encoder)
        with torch.no_grad():
            for name, value in _tensors(folder, AVERAGE).items():
                values[name].copy_(value)
    return state


def held(encoder: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint keeps of an encoder: what is trained, and buffers."""
    parameters = dict(encoder.named_parameters())
    buffers = {name: value for name, value in encoder.state_dict().items() if name not in parameters}
    # A tied parameter has several names in the state, and one among the parameters.
    tied = {value.data_ptr() for value in parameters.values()}
    return {name: value for name, value in parameters.items() if value.requires_grad} | {
        name: value for name, value in buffers.items() if value.data_ptr() not in tied
    }


def _into(folder: Path, file: str, targets: Mapping[str, Tensor], state: State) -> None:
    """Copy the values of a file over those of the same names, which must be the same on both sides."""
    values = _tensors(folder, file) if file in state.files else {}
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    wanted = {name: tuple(value.shape) for name, value in targets.items()}
    if shapes != wanted:
        differ = sorted({name for name, _ in shapes.items() ^ wanted.items()})
        raise CheckpointError(
            f"{folder}: of another encoder or loss ({file} differs in {', '.join(differ[:5])}); start a run of another "
            "name"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])


def _tensors(folder: Path, file: str) -> dict[str, Tensor]:
    try:
        return load_file(folder / file)
    except SafetensorError as error:
        raise CheckpointError(_damaged(folder, f"{file}: {error}")) from None


def _copied(value: Any) -> Any:
    """The same in this machine's memory; from a GPU by way of pinned memory, so that the copies overlap."""
    if isinstance(value, Tensor):
        target = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return target.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _damaged(folder: Path, what: str) -> str:
    return f"{folder}: damaged checkpoint: {what}"
