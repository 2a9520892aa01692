"""A trial: one configuration, as a run of its own below the search's folder.

Training goes on in a thread, while what validation records is given row by row. A trial that is started again continues
its run.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.space import Space

COMPLETE, FIXED, STEPS, PROCESS, POOL = "complete", "fixed", "steps", "process", "pool"
"""What a trial tells besides measures: that it ended by itself, and measures with fixes of its vectors (in its last
row); the steps that it is to train, the id of its process in Ray, and the fingerprint of the dev set."""
BASES = "bases"
"""Beside the trials' folder: base encoders, which trials that begin with equal ones share."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class TrialSetting:
    """What the trials of a search have in common; goes to every one of them."""

    space: Space
    base: Mapping[str, Any]
    """The fields of the `TrainConfig` that the values change."""
    folder: Path
    """Of the trials' runs."""
    segment: int | None = None
    """Steps between two looks at the others, of a population."""
    fixes: tuple[str, ...] = ()
    """Of vectors, to measure what was trained with as well."""

    def config(self, values: Mapping[str, Any], trial_id: str) -> TrainConfig:
        name = run_folder(self.folder, values, trial_id).name
        return self.space.config(self.base, values, name, self.folder)


def run_folder(folder: Path, values: Mapping[str, Any], trial_id: str) -> Path:
    """Of a trial's run, such as `alpha=0.3,seed=1-…`; it keeps its name when a population changes values."""
    if begun := next(folder.glob(f"*-{trial_id}"), None):
        return begun
    told = ",".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())
    return folder / (re.sub(r"[^\w.,=-]+", "_", told, flags=re.ASCII)[:80].lstrip(".") + f"-{trial_id}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def told(config: TrainConfig, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the validation's record, as Tune has it."""
    import ray

    return {**row, STEPS: config.optimiser.steps, PROCESS: ray.get_runtime_context().get_actor_id()}


def rows_of(config: TrainConfig, until: int | None = None) -> Iterator[dict[str, Any]]:
    """Train, and give the rows of the validation's record as they come, those of before a restart among them.

    Raises:
        HbtError: see `hbt_ray.train.driver.trainer.fit`.
    """
    from hbt_ray.train.validation.record import ValidationRecord

    record = ValidationRecord(config.run.validation)
    with _training(config, until) as done:
        while not done.wait(_POLL_SECONDS):
            yield from record.fresh().values()
    yield from record.fresh().values()


def measured_fixed(config: TrainConfig, fixes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Fix → measures of the newest checkpoint with it, fitted to the store that was trained on.

    Raises:
        ConfigError: a fix asks for more than the store has.
    """
    import ray

    from hbt_ray.train.validation.launch import options

    def measure() -> dict[str, dict[str, float]]:
        from hbt_ray.data.store.store import Store
        from hbt_ray.retrieval.transforms.methods import make_method
        from hbt_ray.train.validation.runner import Validator

        newest = CheckpointDirectory(config.run.checkpoints).newest()
        if newest is None:
            return {}
        store = Store(config.store, config.stream.cache)
        return Validator(config).measures_fixed(newest[0], store, [make_method(kind, "posthoc") for kind in fixes])

    try:
        found: dict[str, dict[str, float]] = ray.get(ray.remote(measure).options(**options(config)).remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return found


@contextmanager
def _training(config: TrainConfig, until: int | None) -> Iterator[threading.Event]:
    """Sets the event when training has ended, and raises what ended it."""
    from hbt_ray.train.driver.trainer import fit

    done, errors = threading.Event(), list[BaseException]()

    def train() -> None:
        try:
            fit(config, lambda _: None, until, bases=config.storage_path.parent / BASES)
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=train, name=f"training {config.name}", daemon=True)
    thread.start()
    yield done
    thread.join()
    if errors:
        raise errors[0]
