"""The files of a checkpoint: all that a run needs to continue.

    weights.safetensors   the encoder; with LoRA only the adapters, since their base is in the run folder
    loss.safetensors      the learned temperature, if there is one
    ema.safetensors       the averaged weights, if there are any
    optimiser.pt          moments of AdamW; read with `weights_only`, so that it cannot run code
    checkpoint.json       next step, identity of the plan, world size, SHA-256 of the other files and of itself

`checkpoint.json` is written last. There is no generator state and no iterator state: random numbers and batches are
functions of the step.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hbt_ray.errors import CheckpointError, DamagedFile
from hbt_ray.storage import AnyPath, file_sha256, local_folder, read_checked_json, write_checked_json
from hbt_ray.train.step.optimizer import restore_optimiser
from hbt_ray.train.step.train_step import TrainStep

WEIGHTS, LOSS, EMA = "weights.safetensors", "loss.safetensors", "ema.safetensors"
OPTIMISER, INFO = "optimiser.pt", "checkpoint.json"
STEP_NAME = r"step-(\d+)"
"""Pattern of a checkpoint's folder name; the number is its step."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """The content of `checkpoint.json`."""

    step: int
    """Finished steps, and the number of the next one."""
    plan: dict[str, Any]
    """`Plan.identity` of the batches that were trained on."""
    world_size: int = 1
    """Number of ranks that trained up to it."""
    num_ema_updates: int = 0
    """Updates of the weights' average so far."""
    files: dict[str, str] = field(default_factory=dict)
    """Name → SHA-256."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Copies of all that a checkpoint holds: training may continue while they are written."""

    info: CheckpointInfo
    """Content of `checkpoint.json` without `files`, which are hashed when they are written."""
    tensors: dict[str, dict[str, Tensor]]
    """File → name → values."""
    optimiser: dict[str, Any]


def take_snapshot(train_step: TrainStep, step: int, plan: dict[str, Any]) -> Snapshot:
    """Copy the state after `step` steps into this machine's memory."""
    ema = train_step.ema
    tensors = {
        WEIGHTS: checkpointed_tensors(train_step.encoder),
        LOSS: dict(train_step.objective.state_dict()),
        EMA: ema.values if ema else {},
    }
    copies = {file: _copy_to_cpu(values) for file, values in tensors.items() if values}
    info = CheckpointInfo(step, plan, len(train_step.rank_sizes), ema.num_updates if ema else 0)
    optimiser = _copy_to_cpu(train_step.optimiser.state_dict())
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # The copies are asynchronous.
    return Snapshot(info, copies, optimiser)


def write_checkpoint(
    folder: Path, snapshot: Snapshot, on_file_written: Callable[[Path], None] = lambda path: None
) -> None:
    """Write a snapshot into an empty folder.

    Args:
        on_file_written: called with the path of each file once it is complete.
    """
    for name, tensors in snapshot.tensors.items():
        save_file(tensors, str(folder / name))
        on_file_written(folder / name)
    with (folder / OPTIMISER).open("wb") as file:  # Given a path, torch reports a full disk as "unexpected pos".
        torch.save(snapshot.optimiser, file)
    on_file_written(folder / OPTIMISER)
    checksums = {name: file_sha256(folder / name) for name in (*snapshot.tensors, OPTIMISER)}
    write_checked_json(folder / INFO, asdict(replace(snapshot.info, files=checksums)))
    on_file_written(folder / INFO)


def verify_checkpoint(path: AnyPath) -> CheckpointInfo:
    """Read and hash all files of a checkpoint.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    folder: AnyPath = path
    try:
        folder = local_folder(path)
        info = CheckpointInfo(**read_checked_json(folder / INFO))
        # `.name`, so that no entry can lead out of the folder.
        checksums = {name: file_sha256(folder / Path(name).name) for name in info.files}
    except (OSError, DamagedFile, TypeError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from None
    if not {WEIGHTS, OPTIMISER} <= checksums.keys():
        raise _damaged(folder, f"{INFO} does not list {WEIGHTS} and {OPTIMISER}")
    for name, checksum in info.files.items():
        if checksums[name] != checksum:
            raise _damaged(folder, f"{name} is not what was written (cut short or changed)")
    if (match := re.fullmatch(STEP_NAME, folder.name)) and int(match[1]) != info.step:
        raise _damaged(folder, f"{INFO} is of step {info.step}, so the folder was renamed or copied")
    return info


def restore_checkpoint(path: AnyPath, train_step: TrainStep, info: CheckpointInfo | None = None) -> CheckpointInfo:
    """Load weights, objective, average and optimiser.

    Args:
        info: what `verify_checkpoint` returned, so that the files are not hashed again; None verifies them.
    """
    info = restore_weights(path, train_step.encoder, info)
    folder = local_folder(path)
    _copy_into(folder, LOSS, train_step.objective.state_dict(), info)
    if train_step.ema is not None:
        if EMA not in info.files:
            raise CheckpointError(
                f"{folder}: holds no average of the weights; set optimiser.ema to null, or start a run of another name",
                code="CHECKPOINT_MISMATCH",
            )
        train_step.ema.load(_read_tensors(folder, EMA), info.num_ema_updates)
    try:
        # Read on the CPU, whichever device wrote it: `load_state_dict` moves the moments to the parameters' device.
        saved = torch.load(folder / OPTIMISER, weights_only=True, map_location="cpu")
        restore_optimiser(train_step.optimiser, saved)
    except OSError as error:
        raise _damaged(folder, f"{OPTIMISER}: {error}") from None
    except (pickle.UnpicklingError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: {OPTIMISER} was not written by this optimiser: {error}", code="CHECKPOINT_MISMATCH"
        ) from None
    return info


def restore_weights(
    path: AnyPath, encoder: nn.Module, info: CheckpointInfo | None = None, *, averaged: bool = False
) -> CheckpointInfo:
    """Load the encoder's weights.

    Args:
        info: what `verify_checkpoint` returned, so that the files are not hashed again; None verifies them.
        averaged: load the average of the weights if the checkpoint holds one.
    """
    if info is None:
        info = verify_checkpoint(path)
    folder = local_folder(path)
    _copy_into(folder, WEIGHTS, checkpointed_tensors(encoder), info)
    if averaged and EMA in info.files:
        targets = checkpointed_tensors(encoder)
        with torch.no_grad():
            for name, value in _read_tensors(folder, EMA).items():
                targets[name].copy_(value)
    return info


def checkpointed_tensors(encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of an encoder that a checkpoint holds: trained parameters and buffers."""
    parameters = dict(encoder.named_parameters())
    buffers = {name: value for name, value in encoder.state_dict().items() if name not in parameters}
    # A tied parameter has several names in `state_dict`, and one in `named_parameters`.
    tied = {value.data_ptr() for value in parameters.values()}
    return {name: value for name, value in parameters.items() if value.requires_grad} | {
        name: value for name, value in buffers.items() if value.data_ptr() not in tied
    }


def _copy_into(folder: Path, file: str, targets: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    values = _read_tensors(folder, file) if file in info.files else {}
    saved_shapes = {name: tuple(value.shape) for name, value in values.items()}
    target_shapes = {name: tuple(value.shape) for name, value in targets.items()}
    if saved_shapes != target_shapes:
        different = sorted({name for name, _ in saved_shapes.items() ^ target_shapes.items()})
        raise CheckpointError(
            f"{folder}: was made with another encoder or loss ({file} differs in {', '.join(different[:5])}); start a "
            "run of another name",
            code="CHECKPOINT_MISMATCH",
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])


def _read_tensors(folder: Path, file: str) -> dict[str, Tensor]:
    try:
        return load_file(folder / file)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, f"{file}: {error}") from None


def _copy_to_cpu(value: Any) -> Any:
    """A copy in this machine's memory, through pinned memory from a GPU, so that the copies overlap."""
    if isinstance(value, Tensor):
        target = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return target.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy_to_cpu(item) for item in value]
    return value


def _damaged(folder: AnyPath, problem: str) -> CheckpointError:
    return CheckpointError(f"{folder}: damaged checkpoint: {problem}", code="DAMAGED_CHECKPOINT")
