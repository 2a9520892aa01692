"""The trainable of Ray Tune: one trial trains one configuration as a run of its own below the search's folder.

Training runs in a thread, while the rows that validation records are reported to Ray Tune one by one. A trial that is
started again continues its run. A trial that is stopped need not cooperate: Ray Tune kills its process, and the actors
that Ray Train started end with it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.storage import temporary_folder
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.record import ValidationRecord
from hbt_ray.tune.pbt import LineageStage, hand_over, lineage_config, read_lineage, save_lineage, take_over
from hbt_ray.tune.space import Space, format_value

COMPLETE, STEPS, ACTOR, DEV_SET, TRANSFORMED = "complete", "steps", "actor", "dev_set", "transformed"
"""Fields of a reported row besides the measures: whether the trial reached its end, the steps that it is to train, the
Ray id of its process, the fingerprint of the dev set, and the measures with each post-hoc transform (last row only)."""
BASES = "bases"
"""Folder of base encoders beside the trials' folders; trials with equal ones share them."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class TrialFactory:
    """Makes the configurations of a search's trials. Each trial gets a pickled copy."""

    space: Space
    base: Mapping[str, Any]
    """Fields of the `TrainConfig` that the values of a trial change."""
    folder: Path
    """Folder of the trials' runs."""
    segment: int | None = None
    """Steps of a segment of population-based training; None for other algorithms."""
    posthoc: tuple[str, ...] = ()
    """Methods of the post-hoc transforms that each finished trial is measured with as well."""

    def config(self, values: Mapping[str, Any], trial_id: str) -> TrainConfig:
        """The configuration of a trial; its run has the name of the trial's folder."""
        name = trial_folder(self.folder, values, trial_id).name
        return self.space.config(self.base, values, name, self.folder)


def trial_folder(folder: Path, values: Mapping[str, Any], trial_id: str) -> Path:
    """The folder of a trial's run, such as `alpha=0.3,seed=1-…`. It keeps its name if PBT changes the values."""
    if existing := next(folder.glob(f"*-{trial_id}"), None):
        return existing
    text = ",".join(f"{key.rpartition('.')[2]}={format_value(value)}" for key, value in values.items())
    return folder / (re.sub(r"[^\w.,=-]+", "_", text, flags=re.ASCII)[:80].lstrip(".") + f"-{trial_id}")


def run_trial(values: dict[str, Any], *, factory: TrialFactory) -> None:
    from ray import tune

    from hbt_ray.ray_session import configure
    from hbt_ray.train.driver.resources import release_placement_group

    configure(local=False)
    trial_id = tune.get_context().get_trial_id()
    config = factory.config(values, trial_id)
    release_placement_group(config.run)  # An attempt that was killed may still hold its placement group.
    if factory.segment is not None:
        _train_in_segments(values, factory, factory.segment, trial_id)
        return
    row: dict[str, Any] = {"step": 0}  # Reported as complete if there is no row.
    for row in train_rows(config):
        tune.report(_report_row(config, row))
    transformed = measure_transforms(config, factory.posthoc) if factory.posthoc else {}
    tune.report({**_report_row(config, row), COMPLETE: True, TRANSFORMED: transformed})


def _train_in_segments(values: dict[str, Any], factory: TrialFactory, segment: int, trial_id: str) -> None:
    from ray import tune

    run = factory.config(values, trial_id).run
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            lineage = take_over(Path(folder), run, values)
    else:
        lineage = read_lineage(run.root) or [LineageStage(from_step=0, values=values)]
    config = lineage_config(lineage, lambda values: factory.config(values, trial_id))
    newest, steps = CheckpointDirectory(run.checkpoints).newest(), config.optimiser.steps
    step = newest[1].step if newest else 0
    while step < steps:
        step = min(step + segment, steps)
        *_, row = train_rows(config, step)  # A segment ends with a validation.
        save_lineage(run.root, lineage)
        with temporary_folder("member") as folder:
            hand_over(run, lineage, step, folder)
            report = {**_report_row(config, row), COMPLETE: step == steps}
            tune.report(report, checkpoint=tune.Checkpoint.from_directory(str(folder)))


def _report_row(config: TrainConfig, row: Mapping[str, Any]) -> dict[str, Any]:
    import ray

    return {**row, STEPS: config.optimiser.steps, ACTOR: ray.get_runtime_context().get_actor_id()}


def train_rows(config: TrainConfig, until: int | None = None) -> Iterator[dict[str, Any]]:
    """Train, and yield the rows of the validation record as they come, including those from before a restart."""
    from hbt_ray.train.driver.trainer import fit

    record, training = ValidationRecord(config.run.validation), Future[int]()

    def train() -> None:
        try:
            training.set_result(fit(config, lambda _: None, until, shared_bases=config.run.root.parent.parent / BASES))
        except BaseException as error:
            training.set_exception(error)

    # A daemon, unlike an executor's threads: a process that is stopped must not wait for it.
    threading.Thread(target=train, name=f"training {config.name}", daemon=True).start()
    while not training.done():
        wait([training], _POLL_SECONDS)
        yield from record.fresh().values()
    training.result()
    yield from record.fresh().values()


def measure_transforms(config: TrainConfig, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measure the newest checkpoint with each post-hoc transform, fitted to the training store: method → measures."""
    import ray

    from hbt_ray.train.validation.callback import task_options

    def measure() -> dict[str, dict[str, float]]:
        # A task of its own, with the resources of a validation; the trial's process reserves none.
        from hbt_ray.data.store.store import Store
        from hbt_ray.retrieval.transforms.methods import make_method
        from hbt_ray.train.validation.runner import Validator

        newest = CheckpointDirectory(config.run.checkpoints).newest()
        if newest is None:
            return {}
        store = Store(config.store, config.stream.cache)
        return Validator(config).transformed_measures(
            newest[0], store, [make_method(kind, "posthoc") for kind in methods]
        )

    try:
        measures: dict[str, dict[str, float]] = ray.get(ray.remote(measure).options(**task_options(config)).remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # The error itself, without Ray's wrapper.
    return measures
