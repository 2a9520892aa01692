"""Validation during training: how the ranks start it, wait for it and decide to stop.

Ray Train validates the checkpoints that are reported to it, one at a time, in a task beside the training workers. A
plain Ray task validates those whose validation was lost in an earlier session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from hbt_ray.errors import CheckpointError, HbtError, ValidationFailed
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import verify_checkpoint
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.config import early_stopping_state
from hbt_ray.train.validation.record import ValidationRecord, ValidationRow, measure_values, validation_schedule

logger = logging.getLogger(__name__)

T = TypeVar("T")
_POLL_SECONDS = 0.1


def ray_validation_config(config: TrainConfig) -> ray.train.ValidationConfig | None:
    """Validation for Ray Train's trainer, whose `fit` waits for all that were started; None without a dev store."""
    if not config.validation.store:
        return None
    validate_step = _validation_function(config)

    def validate(checkpoint: ray.train.Checkpoint, step: int) -> dict[str, Any]:
        return validate_step(step)

    return ray.train.ValidationConfig(fn=validate, ray_remote_kwargs=task_options(config))


def launch_validations(config: TrainConfig, steps: Sequence[int]) -> ray.ObjectRef:
    """Validate earlier checkpoints one after the other in a Ray task, which ends with the process that calls this."""
    validate_step = _validation_function(config)

    def validate() -> None:
        for step in steps:
            validate_step(step)

    return ray.remote(validate).options(**task_options(config)).remote()


def task_options(config: TrainConfig) -> dict[str, Any]:
    """Options of a Ray task that validates.

    By default it needs no CPU, so it can start while the training workers hold all of them. With environment variables
    of its own it gets a process that runs nothing else, so that the low priority of that process harms nothing else.
    """
    variables = {"OMP_NUM_THREADS": _num_threads(config), "TOKENIZERS_PARALLELISM": "false", "HBT_VALIDATION": "1"}
    return {
        "num_cpus": config.validation.cpus,
        "num_gpus": int(config.validation.gpu),
        "runtime_env": {"env_vars": {name: str(value) for name, value in variables.items()}},
    }


def _validation_function(config: TrainConfig) -> Callable[[int], dict[str, Any]]:
    settings, threads = config.absolute().model_dump(mode="json"), _num_threads(config)

    def validate_step(step: int) -> dict[str, Any]:
        # Nested, so that Ray pickles it by value: its controller need not import torch to pass it on.
        from hbt_ray.train.validation.runner import lower_priority, validate

        lower_priority(threads)
        return validate(settings, step)

    return validate_step


def _num_threads(config: TrainConfig) -> int:
    return max(1, int(config.validation.cpus))


class ValidationCallback:
    """Validation and early stopping of one rank. Only rank 0 reads the record.

    Checkpoints up to `start` without a result, whose validation was lost with the driver or the cluster, are validated
    first.
    """

    def __init__(self, config: TrainConfig, rank: int, start: int) -> None:
        self._config, self._is_first = config, rank == 0
        self.schedule = validation_schedule(config)
        self._record = ValidationRecord(config.run.validation)
        self._started: set[int] = set()
        """Steps whose validation is recorded or was started."""
        self._launched: ray.ObjectRef | None = None
        self.stopped = False
        if self._is_first:
            self._started = set(self._record.cut(start))
            self._validate_missing(start)
        # A run that had stopped early must not train on, although the driver has started it for missing validations.
        if start and self.should_stop(start):
            logger.info("no improvement up to step %d; nothing is left to train", start)

    def report_option(self, step: int) -> bool | ray.train.ValidationTaskConfig:
        """The argument `validation` for reporting this step's checkpoint to Ray Train."""
        if not (self._is_first and self.schedule.due(step)):
            return False
        self._started.add(step)
        return ray.train.ValidationTaskConfig({"step": step}, self._config.validation.timeout_seconds)

    def should_stop(self, step: int) -> bool:
        """Whether training ends here. Collective; waits for the results that the decision uses."""
        decision: bool | HbtError = False
        if self._is_first:
            try:
                decision = self._decide(step)
            except HbtError as error:
                decision = error
        # Errors are broadcast too: if rank 0 raised here, the other ranks would wait for the collective.
        decision = broadcast_from_rank_zero(decision)
        if isinstance(decision, HbtError):
            raise decision
        self.stopped = decision
        return decision

    def until_stopped(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches, up to the step at which `should_stop` returned True."""
        while not self.stopped and (batch := next(batches, None)) is not None:
            yield batch

    def finish(self) -> None:
        """Wait for the validations that this rank launched; Ray Train waits for those of reported checkpoints."""
        if self._launched:
            ray.wait([self._launched])

    def _validate_missing(self, start: int) -> None:
        missing = []
        directory = CheckpointDirectory(self._config.run.checkpoints)
        for step in directory.steps():
            if step <= start and self.schedule.due(step) and step not in self._started:
                try:
                    verify_checkpoint(directory.path(step))
                    missing.append(step)
                except CheckpointError as error:
                    logger.warning("step %d is not validated: %s", step, error)
        if missing:
            logger.info("validating the checkpoints of steps %s first, which have no result", missing)
            self._started.update(missing)
            self._launched = launch_validations(self._config, missing)

    def _decide(self, step: int) -> bool:
        horizon = self.schedule.horizon(step)
        rows = self._wait_for({at for at in self._started if at <= horizon})
        visible = self.schedule.visible(measure_values(rows, self._config), step)
        return early_stopping_state(visible, self._config.validation).stop

    def _wait_for(self, steps: set[int]) -> dict[int, ValidationRow]:
        timeout = self._config.validation.timeout_seconds
        deadline = time.monotonic() + timeout
        while True:
            rows = {step: row for step, row in self._record.rows(steps).items() if step in steps}
            for step, row in rows.items():
                if "error" in row:
                    raise ValidationFailed(step, row["error"])
            missing = steps - rows.keys()
            if not missing:
                return rows
            # A lost validation never writes a row, so the wait has an end.
            if time.monotonic() > deadline:
                raise ValidationFailed(min(missing), f"no result within {timeout:g} s")
            time.sleep(_POLL_SECONDS)
