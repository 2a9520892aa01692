"""The record of a run's validations, and what follows from it: best checkpoint, early stop, missing validations.

The record is the folder `validation` of the run, with one file a validation. Whichever process validates writes the
file as a whole before the validation counts as done, so a result that a decision used survives every process. Each file
has a checksum, as one changed digit would choose another checkpoint. Readers skip damaged files, and their checkpoints
are validated again.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hbt_ray.data.store.store import Store, read_manifest
from hbt_ray.errors import ConfigError, DamagedFile
from hbt_ray.storage import AnyPath, ObjectPath, names_in, read_checked_json, write_checked_json
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.config import ValidationSchedule, early_stopping_state
from hbt_ray.train.validation.dev_set import dev_languages, fingerprint

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LISTINGS = 5.0
"""Progress asks for new results after every step, and lists an object store no more often than this."""
_NAME = r"step-(\d+)\.json"
ValidationRow = dict[str, Any]
"""`step`, `dev_set` (its fingerprint), the measures and `seconds`; or `step`, `dev_set` and `error`."""


class ValidationRecord:
    """The record in a folder, which need not exist yet."""

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self._results: dict[int, ValidationRow] = {}
        """Step → a result that was read before. A result is never replaced by another one."""
        self._seen: set[int] = set()
        self._last_listing = -math.inf

    def rows(self, steps: Collection[int] = ()) -> dict[int, ValidationRow]:
        """Step → its row, including failures, in the order of steps.

        Args:
            steps: steps to look for even if a listing of the folder lacks them, as that of an object store may.
        """
        names = (re.fullmatch(_NAME, name) for name in names_in(self._folder))
        listed = {int(name[1]) for name in names if name}
        rows = {step: self._read(step) for step in sorted(listed.union(steps))}
        return {step: row for step, row in rows.items() if row is not None}

    def results(self, steps: Collection[int] = ()) -> dict[int, ValidationRow]:
        """Step → its row, without failures, in the order of steps; for `steps` see `rows`."""
        return {step: row for step, row in self.rows(steps).items() if "error" not in row}

    def fresh(self, *, seconds: float = 0.0) -> dict[int, ValidationRow]:
        """Results that were added since the last call.

        Args:
            seconds: shortest time between two listings of an object store; a call before that returns nothing.
        """
        if isinstance(self._folder, ObjectPath) and time.monotonic() - self._last_listing < seconds:
            return {}
        self._last_listing = time.monotonic()
        fresh = {step: row for step, row in self.results().items() if step not in self._seen}
        self._seen.update(fresh)
        return fresh

    def add(self, row: ValidationRow) -> None:
        write_checked_json(self._path(row["step"]), row)

    def cut(self, step: int) -> dict[int, ValidationRow]:
        """Remove failures and rows after `step`, from which training continues; returns the rest."""
        remaining = {}
        for at, row in self.rows().items():
            # Failures go too, so that their checkpoints are validated again.
            if at <= step and "error" not in row:
                remaining[at] = row
            else:
                self._path(at).unlink(missing_ok=True)
                self._results.pop(at, None)
        return remaining

    def _path(self, step: int) -> AnyPath:
        return self._folder / f"step-{step:08d}.json"

    def _read(self, step: int) -> ValidationRow | None:
        if step not in self._results:
            try:
                row = read_checked_json(self._path(step))
            except FileNotFoundError:
                return None
            except DamagedFile as error:
                logger.warning("%s; the checkpoint of step %d is validated again", error, step)
                return None
            if "error" in row:
                return row
            self._results[step] = row
        return self._results[step]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Status of a run."""

    done: int
    """Steps that are trained."""
    complete: bool
    """Whether nothing is left to train."""
    reason: str = ""
    """Why training stopped before the last step; empty if it did not."""
    best: int | None = None
    """Step of the best validated checkpoint; None without validation."""
    value: float | None = None
    """Its value of `validation.measure`."""
    missing: tuple[int, ...] = ()
    """Existing checkpoints that should have been validated but have no result."""


def validation_schedule(config: TrainConfig) -> ValidationSchedule:
    every = config.validation.every or config.checkpoints.every
    return ValidationSchedule(every, config.optimiser.steps, config.validation.lag)


def measure_values(rows: Mapping[int, ValidationRow], config: TrainConfig) -> dict[int, float]:
    """Step → value of `validation.measure`."""
    return {step: row[config.validation.measure] for step, row in rows.items()}


def run_status(config: TrainConfig, done: int) -> RunStatus:
    """The status of a run whose newest checkpoint is that of step `done`."""
    steps, schedule = config.optimiser.steps, validation_schedule(config)
    if not config.validation.store:
        return RunStatus(done, done >= steps)
    values = {step: value for step, value in _recorded_values(config).items() if step <= done}
    # The best step is that of all results, but whether training stops follows from the visible ones alone.
    best = early_stopping_state(values, config.validation).best
    state = early_stopping_state(schedule.visible(values, done), config.validation)
    checkpoints = CheckpointDirectory(config.run.checkpoints).steps()
    missing = tuple(step for step in checkpoints if step <= done and schedule.due(step) and step not in values)
    reason = ""
    if state.stop and done < steps:
        count = f"{state.waited} validation{'s' * (state.waited != 1)}"
        reason = f"no improvement of {config.validation.measure} for {count}; best at step {state.best:,}"
    value = None if best is None else values[best]
    return RunStatus(done, done >= steps or state.stop, reason, best, value, missing)


def best_step(config: TrainConfig) -> int | None:
    """Step of the best checkpoint among those that still exist; None without a result."""
    values, steps = _recorded_values(config), CheckpointDirectory(config.run.checkpoints).steps()
    return early_stopping_state({step: values[step] for step in steps if step in values}, config.validation).best


def checkpoints_to_keep(config: TrainConfig) -> set[int]:
    """Checkpoints that must not be deleted, however old: the best one, and those still to be validated."""
    if not config.validation.store:
        return set()
    schedule, values, best = validation_schedule(config), _recorded_values(config), best_step(config)
    steps = CheckpointDirectory(config.run.checkpoints).steps()
    return {step for step in steps if step == best or (schedule.due(step) and step not in values)}


def _recorded_values(config: TrainConfig) -> dict[int, float]:
    """Step → value of `validation.measure`; empty without a dev store."""
    if not config.validation.store:
        return {}
    steps = CheckpointDirectory(config.run.checkpoints).steps()
    return measure_values(ValidationRecord(config.run.validation).results(steps), config)


def check_validation(config: TrainConfig) -> None:
    """Check that validation is possible, and that its results can be compared with those on record."""
    if not config.validation.store:
        return
    manifest = Store(config.validation.store, config.stream.cache).manifest
    dev_languages(manifest, config.validation)
    if manifest.checksum == read_manifest(config.store).checksum:
        raise ConfigError(
            f"validation.store={config.validation.store} holds the training data, so its measures would show how well "
            "the model memorises; prepare a dev store of other items",
            code="DEV_IS_TRAINING",
        )
    dev_set = fingerprint(manifest, config.validation)
    for step, row in ValidationRecord(config.run.validation).results().items():
        if row.get("dev_set") != dev_set:
            raise ConfigError(
                f"{config.run.validation}: step {step} was validated on other texts or at another temperature, so its "
                "measures cannot be compared with new ones; restore validation.store, items, languages, seed and "
                "temperature, or delete the folder: the checkpoints that still exist are then validated again",
                code="OTHER_DEV_SET",
            )
