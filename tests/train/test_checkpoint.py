"""Checkpoints: undamaged or refused, copies of one moment, and without code in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hbt_ray.errors import CheckpointError
from hbt_ray.storage import file_sha256, read_checked_json, write_checked_json
from hbt_ray.train.checkpoint import format as checkpoint_format
from hbt_ray.train.loss.objective import LossConfig
from hbt_ray.train.step.train_step import TrainStep
from tests.train.batches import batch
from tests.train.test_train_step import make_train_step

PLAN = {"seed": 0, "alpha": 0.5}
FILES = ["weights.safetensors", "loss.safetensors", "ema.safetensors", "optimiser.pt", "checkpoint.json"]


def full_train_step(**settings: Any) -> TrainStep:
    """With everything that a checkpoint can hold."""
    loss = LossConfig(learn_temperature=True)
    return make_train_step(torch.float32, dropout=0.1, loss=loss, **{"ema": 0.9, **settings})


def save(folder: Path, train_step: TrainStep, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint_format.write_checkpoint(folder, checkpoint_format.take_snapshot(train_step, step, PLAN))


@pytest.fixture
def trained(tmp_path: Path) -> TrainStep:
    train_step = full_train_step()
    for step in range(3):
        train_step.run(batch(step))
    save(tmp_path, train_step, 3)
    return train_step


def test_a_restored_learner_goes_on_as_if_nothing_had_been(tmp_path: Path, trained: TrainStep) -> None:
    other = full_train_step()
    state = checkpoint_format.restore_checkpoint(tmp_path, other)
    assert (state.step, state.plan, state.world_size, state.num_ema_updates) == (3, PLAN, 1, 3)
    assert sorted(state.files) == sorted(FILES[:-1])
    for step in range(3, 8):
        assert other.run(batch(step)) == trained.run(batch(step))
    ours, theirs = (checkpoint_format.take_snapshot(one, 8, PLAN).tensors for one in (other, trained))
    for file, tensors in ours.items():
        assert all(torch.equal(value, theirs[file][name]) for name, value in tensors.items()), file


def test_a_snapshot_is_of_its_moment_and_its_bytes_too(tmp_path: Path, trained: TrainStep) -> None:
    taken = checkpoint_format.take_snapshot(trained, 3, PLAN)
    trained.run(batch(3))
    (tmp_path / "later").mkdir()
    checkpoint_format.write_checkpoint(tmp_path / "later", taken)
    for name in FILES:
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_averaged_weights_are_had_where_asked_for(tmp_path: Path, trained: TrainStep) -> None:
    plain, averaged = (make_train_step(torch.float32).encoder for _ in range(2))
    checkpoint_format.restore_weights(tmp_path, plain)
    checkpoint_format.restore_weights(tmp_path, averaged, averaged=True)
    assert trained.ema is not None
    for name, value in averaged.named_parameters():
        assert torch.equal(value, trained.ema.values[name])
    assert any(
        not torch.equal(one, other) for one, other in zip(plain.parameters(), averaged.parameters(), strict=True)
    )


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    spoil(tmp_path / name, damage)
    for read in (
        checkpoint_format.verify_checkpoint,
        lambda folder: checkpoint_format.restore_checkpoint(folder, full_train_step()),
    ):
        with pytest.raises(CheckpointError, match="damaged checkpoint") as caught:
            read(tmp_path)
        assert caught.value.code == "DAMAGED_CHECKPOINT"


@pytest.mark.usefixtures("trained")
def test_one_changed_bit_of_its_record_is_noticed(tmp_path: Path) -> None:
    """The step above all: `"step": 3` → `"step": 2` would train steps again and export other weights."""
    path = tmp_path / "checkpoint.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(CheckpointError):
            checkpoint_format.verify_checkpoint(tmp_path)
    path.write_bytes(whole)
    assert checkpoint_format.verify_checkpoint(tmp_path).step == 3


def flipped(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def spoil(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        path.write_bytes(whole[:9] + bytes([whole[9] ^ 0xFF]) + whole[10:])
    else:
        path.unlink()


@pytest.mark.usefixtures("trained")
def test_what_is_of_something_else_is_refused(tmp_path: Path) -> None:
    with refused():
        checkpoint_format.restore_weights(tmp_path, torch.nn.Linear(3, 3))
    with refused(r"loss\.safetensors differs in log_scale"):
        checkpoint_format.restore_checkpoint(tmp_path, make_train_step(torch.float32))
    save(tmp_path / "plain", make_train_step(torch.float32), 1)
    with refused("optimiser.ema"):
        checkpoint_format.restore_checkpoint(tmp_path / "plain", make_train_step(torch.float32, ema=0.9))
    other = make_train_step(torch.float32)
    other.optimiser = torch.optim.AdamW(other.encoder.parameters())  # One group instead of two.
    with refused("optimiser.pt"):
        checkpoint_format.restore_checkpoint(tmp_path / "plain", other)


@contextmanager
def refused(match: str = "") -> Iterator[None]:
    with pytest.raises(CheckpointError, match=match) as caught:
        yield
    assert caught.value.code == "CHECKPOINT_MISMATCH"


class Malicious:
    """What a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.usefixtures("trained")
def test_a_checkpoint_from_elsewhere_runs_no_code(tmp_path: Path) -> None:
    torch.save({"state": Malicious(tmp_path / "was here"), "param_groups": []}, tmp_path / "optimiser.pt")
    record = read_checked_json(tmp_path / "checkpoint.json")
    record["files"]["optimiser.pt"] = file_sha256(tmp_path / "optimiser.pt")  # As an attacker would.
    write_checked_json(tmp_path / "checkpoint.json", record)
    with refused("optimiser.pt"):
        checkpoint_format.restore_checkpoint(tmp_path, full_train_step())
    assert not (tmp_path / "was here").exists()
