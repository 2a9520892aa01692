"""Handing over and taking over in a population: complete, with checksums, and repeatable after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.errors import DamagedFile
from hbt_ray.run_dir import RunDir
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.validation.record import ValidationRecord
from hbt_ray.tune.pbt import LineageStage, hand_over, read_lineage, take_over
from tests.train.test_checkpoint_directory import publish

LINEAGE = [LineageStage(from_step=0, values={"plan.alpha": 0.2})]


@pytest.fixture
def handed_over(tmp_path: Path) -> Path:
    """What a donor hands over at step 20."""
    donor, folder = RunDir(tmp_path / "donor"), tmp_path / "given"
    publish(CheckpointDirectory(donor.checkpoints), 20)
    donor.metrics.write_text('{"step": 0}\n')
    ValidationRecord(donor.validation).add({"step": 20, "AP": 0.9})
    folder.mkdir()
    hand_over(donor, LINEAGE, 20, folder)
    return folder


def test_a_member_takes_over_checkpoint_records_and_lineage(tmp_path: Path, handed_over: Path) -> None:
    run = RunDir(tmp_path / "member")
    publish(CheckpointDirectory(run.checkpoints), 10)
    ValidationRecord(run.validation).add({"step": 10, "AP": 0.5})
    for _ in range(2):  # It may be killed within, and then takes over again.
        lineage = take_over(handed_over, run, {"plan.alpha": 0.8})
        assert [ancestor.from_step for ancestor in lineage] == [0, 20]
        assert read_lineage(run.root) == lineage
        assert CheckpointDirectory(run.checkpoints).steps() == [20]
        assert run.metrics.read_text() == '{"step": 0}\n'
        assert list(ValidationRecord(run.validation).rows()) == [20]


def test_a_lineage_that_was_changed_is_named(tmp_path: Path, handed_over: Path) -> None:
    """It says which values held from which step on, and is what a configuration is made of."""
    run = RunDir(tmp_path / "member")
    assert read_lineage(run.root) == []
    take_over(handed_over, run, {"plan.alpha": 0.8})
    path = run.root / "lineage.json"
    path.write_bytes(path.read_bytes().replace(b"20", b"10"))
    with pytest.raises(DamagedFile):
        read_lineage(run.root)
