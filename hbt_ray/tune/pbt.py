"""Population-based training (PBT, 1711.09846): the lineage of a trial, and taking over another trial's weights.

Ray Tune's scheduler decides after every segment which trials continue from the checkpoint of a better one, with
perturbed values. The donor hands over a folder with its checkpoint, its records and its *lineage*: the values of every
stage and the stage's first step. Alpha and the learning rate of a lineage become stages of one configuration, so the
schedule that a population finds is a configuration that `hbt train` repeats bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hbt_ray.errors import ConfigError
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import (
    AnyPath,
    atomic_folder,
    local_folder,
    read_checked_json,
    read_json_lines,
    remove_tree,
    write_checked_json,
    write_json_lines,
)
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.record import ValidationRecord

_LINEAGE = "lineage.json"


class LineageStage(BaseModel):
    """Values that were used from a step on."""

    from_step: int
    values: dict[str, Any]


def lineage_config(
    lineage: Sequence[LineageStage], config_of: Callable[[Mapping[str, Any]], TrainConfig]
) -> TrainConfig:
    """One configuration for a lineage: alpha and the learning rate in stages, everything else as in each stage."""
    configs = [config_of(stage.values) for stage in lineage]
    first = configs[0]
    steps = [stage.from_step for stage in lineage]
    alphas = [config.plan.alpha for config in configs]
    rates = [config.optimiser.learning_rate for config in configs]
    first_fields = first.model_dump(mode="json")
    for config in configs:
        fields = config.model_dump(mode="json")
        fields["plan"]["alpha"] = first_fields["plan"]["alpha"]
        fields["optimiser"]["learning_rate"] = rates[0]
        if {**fields, "name": ""} != {**first_fields, "name": ""}:
            raise ConfigError(
                "a population can change plan.alpha and optimiser.learning_rate; other keys cannot change within a "
                "run. Search them with another algorithm",
                code="PBT_KEYS",
            )
    if len(set(map(str, alphas))) > 1:
        stages = [{"from_step": step, "alpha": alpha} for step, alpha in zip(steps, alphas, strict=True)]
        first_fields["plan"]["alpha"] = {"stages": stages}
    if len(set(rates)) > 1:
        # Stages of the rate are factors of the first rate, so that warm-up and decay apply to all of them.
        first_fields["optimiser"]["rate_stages"] = [
            {"from_step": step, "factor": rate / rates[0]} for step, rate in zip(steps, rates, strict=True)
        ]
    name = configs[-1].name
    return TrainConfig.make(first_fields, f"the lineage of {name}").model_copy(update={"name": name})


def hand_over(run: RunDir, lineage: Sequence[LineageStage], step: int, folder: Path) -> None:
    """Copy into a folder everything that another trial needs to continue from this step."""
    checkpoint = local_folder(CheckpointDirectory(run.checkpoints).path(step))
    shutil.copytree(checkpoint, folder / checkpoint.name)
    donor = RunDir(folder)
    write_json_lines(donor.metrics, read_json_lines(run.metrics))
    for row in ValidationRecord(run.validation).rows().values():
        ValidationRecord(donor.validation).add(row)
    save_lineage(folder, lineage)


def take_over(folder: Path, run: RunDir, values: Mapping[str, Any]) -> list[LineageStage]:
    """Replace a trial's checkpoint and records by those in the folder; it continues from there with these values.

    After a kill it can be repeated, since the folder is only read.
    """
    lineage = read_lineage(folder)
    donor = RunDir(folder)
    (step,) = CheckpointDirectory(folder).steps()
    # The trial's own checkpoints are replaced as a whole: they may be newer than the donor's.
    with atomic_folder(run.checkpoints) as checkpoints:
        name = CheckpointDirectory(checkpoints).path(step).name
        shutil.copytree(folder / name, checkpoints / name)
    write_json_lines(run.metrics, read_json_lines(donor.metrics))
    remove_tree(run.validation)
    for row in ValidationRecord(donor.validation).rows().values():
        ValidationRecord(run.validation).add(row)
    if lineage[-1].values != dict(values):  # A stage of its own only if the values were perturbed.
        lineage.append(LineageStage(from_step=step, values=dict(values)))
    save_lineage(run.root, lineage)
    return lineage


def save_lineage(folder: AnyPath, lineage: Sequence[LineageStage]) -> None:
    """Write the lineage of a trial into the folder of its run, or into one that is handed over."""
    write_checked_json(folder / _LINEAGE, {"stages": [stage.model_dump(mode="json") for stage in lineage]})


def read_lineage(folder: AnyPath) -> list[LineageStage]:
    """The lineage in a folder; empty for a run whose first segment has not ended."""
    if not (folder / _LINEAGE).exists():
        return []
    return [LineageStage(**stage) for stage in read_checked_json(folder / _LINEAGE)["stages"]]
