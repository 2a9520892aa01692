"""The checkpoint directory: undamaged checkpoints only, and nothing lost by a kill, a full disk or clean-up."""

from __future__ import annotations

import errno
import logging
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hbt_ray.errors import CheckpointError, StorageError
from hbt_ray.storage import atomic_folder
from hbt_ray.train.checkpoint import format as checkpoint_format
from hbt_ray.train.checkpoint.directory import CheckpointDirectory, steps_to_delete
from tests.train.test_checkpoint import FILES, PLAN, full_train_step, spoil
from tests.train.test_train_step import make_train_step


def publish(checkpoints: CheckpointDirectory, step: int) -> None:
    with atomic_folder(checkpoints.path(step)) as folder:
        checkpoint_format.write_checkpoint(folder, checkpoint_format.take_snapshot(full_train_step(), step, PLAN))


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointDirectory:
    directory = CheckpointDirectory(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        publish(directory, step)
    return directory


def newest_step(checkpoints: CheckpointDirectory) -> int:
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[0] == checkpoints.path(newest[1].step)
    return newest[1].step


def test_an_empty_directory_has_no_newest(tmp_path: Path) -> None:
    assert CheckpointDirectory(tmp_path / "nothing").newest() is None
    assert CheckpointDirectory(tmp_path / "nothing").steps() == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_one_is_passed_over_with_a_warning(
    checkpoints: CheckpointDirectory, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest_step(checkpoints) == 30
    spoil(checkpoints.path(30) / name, damage)
    with caplog.at_level(logging.WARNING):
        assert newest_step(checkpoints) == 20
    assert "step-00000030: damaged checkpoint" in caplog.text
    assert "going on from step 20 instead" in caplog.text


def test_one_under_another_name_is_passed_over(
    checkpoints: CheckpointDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are whole, but its step is not the one it stands for."""
    checkpoints.path(30).rename(checkpoints.path(35))
    assert newest_step(checkpoints) == 20
    assert "step-00000035" in caplog.text


def test_when_none_is_whole_all_are_named(checkpoints: CheckpointDirectory) -> None:
    for step in checkpoints.steps():
        spoil(checkpoints.path(step) / FILES[0], "cut")
    with pytest.raises(CheckpointError, match=r"step-00000030.*step-00000020.*step-00000010"):
        checkpoints.newest()


def test_a_block_that_fails_leaves_nothing(checkpoints: CheckpointDirectory) -> None:
    before = sorted(path.name for path in checkpoints.root.rglob("*"))
    number = 0

    def full_disk(path: Path) -> None:
        nonlocal number
        number += 1
        if number == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError), atomic_folder(checkpoints.path(40)) as folder:
        checkpoint_format.write_checkpoint(
            folder, checkpoint_format.take_snapshot(full_train_step(), 40, PLAN), full_disk
        )
    assert sorted(path.name for path in checkpoints.root.rglob("*")) == before
    assert newest_step(checkpoints) == 30


def test_the_same_step_again_replaces_it(checkpoints: CheckpointDirectory) -> None:
    with atomic_folder(checkpoints.path(30)) as folder:
        checkpoint_format.write_checkpoint(
            folder, checkpoint_format.take_snapshot(make_train_step(torch.float32), 30, {"seed": 5})
        )
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1].plan == {"seed": 5}
    assert checkpoints.steps() == [10, 20, 30]


@pytest.mark.parametrize(
    ("steps", "needed", "keep", "gone"),
    [
        ([10, 20, 30], [], 2, [10]),
        ([10, 20, 30], [10], 2, []),
        ([10, 20, 30, 40, 50], [20, 30], 1, [10, 40]),
        ([30, 10, 20], [], 1, [10, 20]),
        ([10], [], 1, []),
        ([10, 20], [99], 5, []),
        ([10, 20], [], 0, [10]),
        ([], [], 3, []),
    ],
)
def test_what_is_deleted(steps: list[int], needed: list[int], keep: int, gone: list[int]) -> None:
    assert steps_to_delete(steps, needed, keep) == gone


def test_cleaning_up(checkpoints: CheckpointDirectory, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.prune(1, needed=[10])
    assert checkpoints.steps() == [10, 30]
    left = checkpoints.root / ".step-00000040.deadbeef"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    assert checkpoints.steps() == [10, 30]
    checkpoints.delete_partial()
    assert sorted(path.name for path in checkpoints.root.iterdir()) == ["step-00000010", "step-00000030"]


SAVING = """
import sys
from pathlib import Path
from tests.train.test_checkpoint_directory import CheckpointDirectory, publish
checkpoints = CheckpointDirectory(Path(sys.argv[1]))
checkpoints.delete_partial()
print("ready", flush=True)
for step in range(int(sys.argv[2]), 10_000):
    publish(checkpoints, step)
    checkpoints.prune(2)
    print(step, flush=True)
"""


@pytest.mark.integration
def test_a_writer_killed_at_any_moment_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    checkpoints, chance, reached = CheckpointDirectory(tmp_path), random.Random(4), 0
    publish(checkpoints, 1)
    for _ in range(5):
        command = [sys.executable, "-c", SAVING, str(tmp_path), str(newest_step(checkpoints) + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            writer.stdout.readline()  # One is published.
            time.sleep(chance.uniform(0.01, 0.3))
            writer.send_signal(signal.SIGKILL)
        steps = checkpoints.steps()
        assert all(checkpoint_format.verify_checkpoint(checkpoints.path(step)).step == step for step in steps)
        assert newest_step(checkpoints) == steps[-1] >= reached
        reached = steps[-1]
    assert reached > 1
