"""The record of a run's validations, and what follows from it: best checkpoint, early stop, missing validations.

The record is `validation.jsonl` of the run, one line a validation. Whichever process validates appends the line with
one write and syncs it before the validation counts as done, so a result that a decision used survives every process.
Each line has a checksum, as one changed digit would choose another checkpoint. Readers skip damaged lines, and their
checkpoints are validated again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.data.store.store import Store, read_manifest
from hbt_ray.errors import ConfigError
from hbt_ray.storage import append_json_lines, read_json_lines, write_json_lines
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.config import ValidationSchedule, early_stopping_state
from hbt_ray.train.validation.dev_set import dev_languages, fingerprint

ValidationRow = dict[str, Any]
"""`step`, `dev_set` (its fingerprint), the measures and `seconds`; or `step`, `dev_set` and `error`."""


class ValidationRecord:
    """The record at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size, self._seen = 0, frozenset[int]()

    def rows(self) -> dict[int, ValidationRow]:
        """Step → its last row, including failures, in the order of steps."""
        rows = {row["step"]: row for row in read_json_lines(self._path, checked=True) if "step" in row}
        return {step: rows[step] for step in sorted(rows)}

    def results(self) -> dict[int, ValidationRow]:
        """Step → its last row, without failures, in the order of steps."""
        return {step: row for step, row in self.rows().items() if "error" not in row}

    def fresh(self) -> dict[int, ValidationRow]:
        """Results that were added since the last call. The file is only read if its size changed."""
        if not self._path.exists() or (size := self._path.stat().st_size) == self._size:
            return {}
        rows = self.results()
        fresh = {step: row for step, row in rows.items() if step not in self._seen}
        self._size, self._seen = size, frozenset(rows)
        return fresh

    def append(self, row: ValidationRow) -> None:
        append_json_lines(self._path, [row], checked=True)

    def cut(self, step: int) -> dict[int, ValidationRow]:
        """Remove failures and rows after `step`, from which training continues; returns the rest."""
        # Failures go too, so that their checkpoints are validated again.
        remaining = {at: row for at, row in self.results().items() if at <= step}
        if remaining != self.rows():
            write_json_lines(self._path, remaining.values(), checked=True)
        return remaining


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
    return measure_values(ValidationRecord(config.run.validation).results(), config)


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
                "temperature, or delete the file: the checkpoints that still exist are then validated again",
                code="OTHER_DEV_SET",
            )
