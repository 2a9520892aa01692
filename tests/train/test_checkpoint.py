"""Checkpoints: whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hbt_ray.errors import CheckpointError
from hbt_ray.train.checkpoints import checkpoint
from hbt_ray.train.engine.learner import Learner
from tests.train.batches import batch
from tests.train.test_learner import learner

PLAN = {"seed": 0, "alpha": 0.5}


@pytest.fixture
def trained(tmp_path: Path) -> Learner:
    made = learner(torch.float32, dropout=0.1)
    for step in range(3):
        made.learn(batch(step))
    checkpoint.save(tmp_path, made, 3, PLAN)
    return made


def test_a_restored_learner_goes_on_as_if_nothing_had_been(tmp_path: Path, trained: Learner) -> None:
    other = learner(torch.float32, dropout=0.1)
    assert checkpoint.restore(tmp_path, other) == checkpoint.State(3, PLAN)
    for step in range(3, 8):
        assert other.learn(batch(step)) == trained.learn(batch(step))
    for mine, theirs in zip(other.encoder.parameters(), trained.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", ["weights.safetensors", "optimiser.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        path.write_bytes(whole[:9] + bytes([whole[9] ^ 0xFF]) + whole[10:])
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        checkpoint.inspect(tmp_path)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        checkpoint.restore(tmp_path, learner(torch.float32))


@pytest.mark.usefixtures("trained")
def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another encoder"):
        checkpoint.restore_weights(tmp_path, torch.nn.Linear(3, 3))
