"""The record: `validation.jsonl` of a run, one line a validation, written by whichever process made it.

A line is one write at the file's end, synchronised before the validation counts as done, so a result that a decision
rests on survives every process. Each row has a checksum, as one changed digit would choose another checkpoint; readers
skip a row that is damaged, and its checkpoint is validated again.
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
from hbt_ray.train.validation.dev_set import dev_languages, fingerprint
from hbt_ray.train.validation.early_stopping import EarlyStoppingState, ValidationSchedule, early_stopping_state

Row = dict[str, Any]
"""`step`, `pool` (its fingerprint), the measures and `seconds`; or `step`, `pool` and `error`."""


class ValidationRecord:
    """The file at `path`, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size, self._told = 0, frozenset[int]()

    def rows(self) -> dict[int, Row]:
        """Step → its last line, failures among them, in the order of steps."""
        rows = {row["step"]: row for row in read_json_lines(self._path, checked=True) if "step" in row}
        return {step: rows[step] for step in sorted(rows)}

    def results(self) -> dict[int, Row]:
        """The same without failures."""
        return {step: row for step, row in self.rows().items() if "error" not in row}

    def fresh(self) -> dict[int, Row]:
        """Results that came since the last call; the file is read only where it has changed."""
        if not self._path.exists() or (size := self._path.stat().st_size) == self._size:
            return {}
        rows = self.results()
        new = {step: row for step, row in rows.items() if step not in self._told}
        self._size, self._told = size, frozenset(rows)
        return new

    def append(self, row: Row) -> None:
        append_json_lines(self._path, [row], checked=True)

    def cut(self, step: int) -> dict[int, Row]:
        """Forget failures and what came after `step`, from where training goes on; returns what is left."""
        left = {at: row for at, row in self.results().items() if at <= step}
        if left != self.rows():
            write_json_lines(self._path, left.values(), checked=True)
        return left


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands after so many steps."""

    done: int
    complete: bool
    reason: str = ""
    """Why training ended before its last step; empty if it did not."""
    best: int | None = None
    """Of the checkpoints that were validated; None without validation."""
    value: float | None = None
    """Its measure."""
    missing: tuple[int, ...] = ()
    """Checkpoints that are there and were to be validated, but have no result."""


def validation_schedule(config: TrainConfig) -> ValidationSchedule:
    every = config.validation.every or config.checkpoints.every
    return ValidationSchedule(every, config.optimiser.steps, config.validation.lag)


def measure_values(rows: Mapping[int, Row], config: TrainConfig) -> dict[int, float]:
    """Step → the measure that decides."""
    return {step: row[config.validation.measure] for step, row in rows.items()}


def run_status(config: TrainConfig, done: int) -> RunStatus:
    """Of a run whose newest checkpoint is after `done` steps."""
    steps = config.optimiser.steps
    if not config.validation.store:
        return RunStatus(done, done >= steps)
    plan, rule = validation_schedule(config), config.validation.rule
    values = measure_values(
        {at: row for at, row in ValidationRecord(config.run.validation).results().items() if at <= done}, config
    )
    best = early_stopping_state(values, rule).best
    seen = early_stopping_state(plan.visible(values, done), rule)
    there = CheckpointDirectory(config.run.checkpoints).steps()
    missing = tuple(step for step in there if step <= done and plan.due(step) and step not in values)
    reason = _reason(config, seen) if seen.stop and done < steps else ""
    value = None if best is None else values[best]
    return RunStatus(done, done >= steps or seen.stop, reason, best, value, missing)


def best_step(config: TrainConfig) -> int | None:
    """The checkpoint to export or to keep: the best of those that are still there; None without a result."""
    rows = ValidationRecord(config.run.validation).results() if config.validation.store else {}
    there = set(CheckpointDirectory(config.run.checkpoints).steps())
    return early_stopping_state(
        measure_values({at: rows[at] for at in rows.keys() & there}, config), config.validation.rule
    ).best


def checkpoints_to_keep(config: TrainConfig) -> set[int]:
    """Checkpoints that are not to be deleted, however old: the best one, and those yet to be validated."""
    if not config.validation.store:
        return set()
    plan, results = validation_schedule(config), ValidationRecord(config.run.validation).results()
    pending = {
        step for step in CheckpointDirectory(config.run.checkpoints).steps() if plan.due(step) and step not in results
    }
    best = best_step(config)
    return pending if best is None else pending | {best}


def check_validation(config: TrainConfig) -> None:
    """Refuse a validation that cannot be done, or that could not be compared with the one on record.

    Raises:
        ConfigError, StoreError
    """
    if not config.validation.store:
        return
    dev = Store(config.validation.store, config.stream.cache).manifest
    dev_languages(dev, config.validation)
    if dev.checksum == read_manifest(config.store).checksum:
        raise ConfigError(
            f"validation.store={config.validation.store} holds what the run trains on, and would call memorising "
            "progress; prepare a dev store of other items"
        )
    pool = fingerprint(dev, config.validation)
    for step, row in ValidationRecord(config.run.validation).results().items():
        if row.get("dev_set") != pool:
            raise ConfigError(
                f"{config.run.validation}: step {step} was validated on other texts or at another temperature, so its "
                "measures cannot be compared; restore validation.store, items, languages, seed and temperature, or "
                "remove the file: the checkpoints that are there are then validated anew"
            )


def _reason(config: TrainConfig, seen: EarlyStoppingState) -> str:
    count = f"{seen.waited} validation{'s' * (seen.waited != 1)}"
    return f"no improvement of {config.validation.measure} for {count}; best at step {seen.best:,}"
