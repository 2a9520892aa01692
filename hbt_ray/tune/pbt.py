"""A member of a population (PBT, 1711.09846): it trains a segment at a time, and may take over another's weights.

Ray Tune decides at the end of a segment; what it hands over is a folder with the donor's checkpoint, its records and
its *lineage*: which values held from which step on. Alpha and the learning rate of a lineage become stages of one
configuration, so the schedule that a population found is a configuration that `hbt train` repeats bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hbt_ray.errors import ConfigError
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import (
    atomic_file,
    atomic_folder,
    read_checked_json,
    temporary_folder,
    with_checksum,
    write_json,
)
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.trial import COMPLETE, TrialSetting, rows_of, told

_LINEAGE, _RECORDS = "lineage.json", ("metrics.jsonl", "validation.jsonl")


class Ancestor(BaseModel):
    """Values that held from a step on."""

    from_step: int
    values: dict[str, Any]


def train_in_segments(values: dict[str, Any], setting: TrialSetting, trial_id: str) -> None:
    """What a member does in Ray Tune."""
    from ray import tune

    run = setting.config(values, trial_id).run
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            lineage = take_over(Path(folder), run, values)
    else:
        lineage = lineage_of(run) or [Ancestor(from_step=0, values=values)]
    segment = setting.segment or 0
    config = with_lineage(setting, lineage, trial_id)
    done, steps = lineage_step(run), config.optimiser.steps
    while done < steps:
        done = min(done + segment, steps)
        *_, row = rows_of(config, done)  # A segment ends with a validation.
        _keep(run, lineage)
        with temporary_folder("member") as folder:
            hand_over(run, lineage, done, folder)
            tune.report(
                {**told(config, row), COMPLETE: done == steps}, checkpoint=tune.Checkpoint.from_directory(str(folder))
            )


def with_lineage(setting: TrialSetting, lineage: Sequence[Ancestor], trial_id: str) -> TrainConfig:
    """One configuration for all of a lineage: alpha and the learning rate in stages, all else as it is now.

    Raises:
        ConfigError: the values of a lineage differ in anything else.
    """
    configs = [setting.config(ancestor.values, trial_id) for ancestor in lineage]
    first = configs[0]
    steps = [ancestor.from_step for ancestor in lineage]
    alphas = [config.plan.alpha for config in configs]
    rates = [config.optimiser.learning_rate for config in configs]
    staged = first.model_dump(mode="json")
    if len(set(map(str, alphas))) > 1:
        staged["plan"]["alpha"] = {
            "stages": [{"from_step": at, "alpha": alpha} for at, alpha in zip(steps, alphas, strict=True)]
        }
    if len(set(rates)) > 1:
        staged["optimiser"]["rate_stages"] = [
            {"from_step": at, "factor": rate / rates[0]} for at, rate in zip(steps, rates, strict=True)
        ]
    for config in configs:
        same = config.model_dump(mode="json")
        same["plan"]["alpha"] = first.model_dump(mode="json")["plan"]["alpha"]
        same["optimiser"]["learning_rate"] = rates[0]
        if {**same, "name": ""} != {**first.model_dump(mode="json"), "name": ""}:
            raise ConfigError(
                "a population changes plan.alpha and optimiser.learning_rate; other keys cannot change within a run, "
                "so search them with another algorithm"
            )
    return TrainConfig.make(staged, f"the lineage of {trial_id}").model_copy(update={"name": configs[-1].name})


def lineage_step(run: RunDir) -> int:
    """The step of the run's newest checkpoint, 0 without one."""
    newest = CheckpointDirectory(run.checkpoints).newest()
    return newest[1].step if newest else 0


def hand_over(run: RunDir, lineage: Sequence[Ancestor], step: int, folder: Path) -> None:
    """Everything with which another member goes on from this step."""
    shelf = CheckpointDirectory(run.checkpoints)
    shutil.copytree(shelf.path(step), folder / shelf.path(step).name)
    for name in _RECORDS:
        if (run.root / name).exists():
            shutil.copy(run.root / name, folder / name)
    _write_lineage(folder / _LINEAGE, lineage)


def take_over(folder: Path, run: RunDir, values: Mapping[str, Any]) -> list[Ancestor]:
    """Make the run go on from what was handed over, with these values; returns the lineage that it now has."""
    lineage = _read_lineage(folder / _LINEAGE)
    given = CheckpointDirectory(folder)
    (step,) = given.steps()
    with atomic_folder(run.checkpoints) as checkpoints:
        shutil.copytree(given.path(step), CheckpointDirectory(checkpoints).path(step))
    for name in _RECORDS:
        (run.root / name).unlink(missing_ok=True)
        if (folder / name).exists():
            with atomic_file(run.root / name) as scratch:
                shutil.copyfile(folder / name, scratch)
    if lineage[-1].values != dict(values):
        lineage.append(Ancestor(from_step=step, values=dict(values)))
    _keep(run, lineage)
    return lineage


def _keep(run: RunDir, lineage: Sequence[Ancestor]) -> None:
    _write_lineage(run.root / _LINEAGE, lineage)


def lineage_of(run: RunDir) -> list[Ancestor]:
    """Of a member's run; none before its first segment."""
    try:
        return _read_lineage(run.root / _LINEAGE)
    except FileNotFoundError:
        return []


def _write_lineage(path: Path, lineage: Sequence[Ancestor]) -> None:
    write_json(path, with_checksum({"ancestors": [ancestor.model_dump(mode="json") for ancestor in lineage]}))


def _read_lineage(path: Path) -> list[Ancestor]:
    """Raises: DamagedFile if it was cut short or changed."""
    return [Ancestor(**ancestor) for ancestor in read_checked_json(path)["ancestors"]]
