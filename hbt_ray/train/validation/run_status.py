"""What a run's record says of it: the best checkpoint, whether it is complete and why, what is yet to be validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hbt_ray.data.store.store import Store, read_manifest
from hbt_ray.errors import ConfigError
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.dev_set import fingerprint, pool_languages
from hbt_ray.train.validation.early_stopping import EarlyStoppingState, ValidationSchedule, early_stopping_state
from hbt_ray.train.validation.record import Row, ValidationRecord


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


def schedule(config: TrainConfig) -> ValidationSchedule:
    every = config.validation.every or config.checkpoints.every
    return ValidationSchedule(every, config.optimiser.steps, config.validation.lag)


def measured(rows: Mapping[int, Row], config: TrainConfig) -> dict[int, float]:
    """Step → the measure that decides."""
    return {step: row[config.validation.measure] for step, row in rows.items()}


def run_status(config: TrainConfig, done: int) -> RunStatus:
    """Of a run whose newest checkpoint is after `done` steps."""
    steps = config.optimiser.steps
    if not config.validation.store:
        return RunStatus(done, done >= steps)
    plan, rule = schedule(config), config.validation.rule
    values = measured(
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
        measured({at: rows[at] for at in rows.keys() & there}, config), config.validation.rule
    ).best


def needed(config: TrainConfig) -> set[int]:
    """Checkpoints that are not to be deleted, however old: the best one, and those yet to be validated."""
    if not config.validation.store:
        return set()
    plan, results = schedule(config), ValidationRecord(config.run.validation).results()
    pending = {
        step for step in CheckpointDirectory(config.run.checkpoints).steps() if plan.due(step) and step not in results
    }
    best = best_step(config)
    return pending if best is None else pending | {best}


def check(config: TrainConfig) -> None:
    """Refuse a validation that cannot be done, or that could not be compared with the one on record.

    Raises:
        ConfigError, StoreError
    """
    if not config.validation.store:
        return
    dev = Store(config.validation.store, config.stream.cache).manifest
    pool_languages(dev, config.validation)
    if dev.checksum == read_manifest(config.store).checksum:
        raise ConfigError(
            f"validation.store={config.validation.store} holds what the run trains on, and would call memorising "
            "progress; prepare a dev store of other items"
        )
    pool = fingerprint(dev, config.validation)
    for step, row in ValidationRecord(config.run.validation).results().items():
        if row.get("pool") != pool:
            raise ConfigError(
                f"{config.run.validation}: step {step} was validated on other texts or at another temperature, so its "
                "measures cannot be compared; restore validation.store, items, languages, seed and temperature, or "
                "remove the file: the checkpoints that are there are then validated anew"
            )


def _reason(config: TrainConfig, seen: EarlyStoppingState) -> str:
    count = f"{seen.waited} validation{'s' * (seen.waited != 1)}"
    return f"no improvement of {config.validation.measure} for {count}; best at step {seen.best:,}"
