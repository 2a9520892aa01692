"""How a validation is run on the cluster: by Ray Train for every checkpoint that is reported, or as a plain task."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from hbt_ray.errors import CheckpointError, HbtError, ValidationFailed
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import verify_checkpoint
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.early_stopping import early_stopping_state
from hbt_ray.train.validation.record import Row, ValidationRecord, measure_values, validation_schedule


def ray_validation_config(config: TrainConfig) -> ray.train.ValidationConfig | None:
    """For the trainer: one validation at a time, and `fit` waits for those that were asked for."""
    if not config.validation.store:
        return None
    judge = _judge(config)

    def validate(checkpoint: ray.train.Checkpoint, step: int) -> dict[str, Any]:
        return judge(checkpoint.path, step)

    return ray.train.ValidationConfig(fn=validate, ray_remote_kwargs=task_options(config))


def report_options(config: TrainConfig, step: int) -> ray.train.ValidationTaskConfig:
    """For the report of a checkpoint."""
    return ray.train.ValidationTaskConfig({"step": step}, config.validation.timeout_seconds)


def launch_validations(config: TrainConfig, steps: Sequence[int]) -> ray.ObjectRef:
    """Validate checkpoints that were reported earlier, in turn; the task ends with the process that launched it."""
    judge, folders = _judge(config), [str(CheckpointDirectory(config.run.checkpoints).path(step)) for step in steps]

    def validate() -> None:
        for folder, step in zip(folders, steps, strict=True):
            judge(folder, step)

    return ray.remote(validate).options(**task_options(config)).remote()


def _judge(config: TrainConfig) -> Callable[[str, int], dict[str, Any]]:
    settings, threads = config.absolute().model_dump(mode="json"), _threads(config)

    def judge(folder: str, step: int) -> dict[str, Any]:
        # Nested, so that Ray sends it by value: its controller need not import torch to pass it on.
        from hbt_ray.train.validation.runner import step_back, validate

        step_back(threads)
        return validate(settings, Path(folder), step)

    return judge


def _threads(config: TrainConfig) -> int:
    return max(1, int(config.validation.cpus))


def task_options(config: TrainConfig) -> dict[str, Any]:
    """What the task asks of the cluster.

    With no CPU of its own it starts where workers hold every one. Variables of its own give it processes that serve
    nothing else, so that their low priority harms nobody.
    """
    variables = {"OMP_NUM_THREADS": str(_threads(config)), "TOKENIZERS_PARALLELISM": "false", "HBT_VALIDATION": "1"}
    return {
        "num_cpus": config.validation.cpus,
        "num_gpus": 1 if config.validation.gpu else 0,
        "runtime_env": {"env_vars": variables},
    }


logger = logging.getLogger(__name__)

T = TypeVar("T")
_POLL_SECONDS = 0.1


class ValidationCallback:
    """Of one rank; all ranks call `stop_at` for the same steps. Only rank 0 reads the record.

    Args:
        start: the step that training goes on with. Checkpoints up to there that lack a result, as their validation was
            lost with the driver or the cluster, are validated again.
    """

    def __init__(self, config: TrainConfig, rank: int, start: int) -> None:
        self._config, self._is_first = config, rank == 0
        self._schedule = validation_schedule(config)
        self._record = ValidationRecord(config.run.validation)
        self._asked: set[int] = set()
        self._late: ray.ObjectRef | None = None
        self.stopped = False
        if self._is_first:
            self._asked = set(self._record.cut(start))
            self._catch_up(start)
        if start and self.stop_at(start):
            logger.info("no improvement up to step %d; nothing is left to train", start)

    def due(self, step: int) -> bool:
        return self._schedule.due(step)

    def ask(self, step: int) -> bool | ray.train.ValidationTaskConfig:
        """What to report the checkpoint of `step` with."""
        if not (self._is_first and self.due(step)):
            return False
        self._asked.add(step)
        return report_options(self._config, step)

    def stop_at(self, step: int) -> bool:
        """Whether training ends here; waits for the results that the decision rests on.

        Raises:
            ValidationFailed: on all ranks alike.
        """
        answer: bool | HbtError = False
        if self._is_first:
            try:
                answer = self._decide(step)
            except HbtError as error:
                answer = error
        answer = broadcast_from_rank_zero(answer)
        if isinstance(answer, HbtError):
            raise answer
        self.stopped = answer
        return answer

    def until_stopped(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches up to the step at which `stop_at` said so."""
        while not self.stopped and (batch := next(batches, None)) is not None:
            yield batch

    def finish(self) -> None:
        """Wait for what this rank launched; Ray Train waits for what was reported."""
        if self._late:
            ray.wait([self._late])

    def _catch_up(self, start: int) -> None:
        missing = []
        shelf = CheckpointDirectory(self._config.run.checkpoints)
        for step in shelf.steps():
            if step > start or not self.due(step) or step in self._asked:
                continue
            try:
                verify_checkpoint(shelf.path(step))
            except CheckpointError as error:
                logger.warning("step %d is not validated: %s", step, error)
                continue
            missing.append(step)
        if missing:
            logger.info("validating the checkpoints of steps %s first, which have no result", missing)
            self._asked.update(missing)
            self._late = launch_validations(self._config, missing)

    def _decide(self, step: int) -> bool:
        horizon = self._schedule.horizon(step)
        rows = self._results({at for at in self._asked if at <= horizon})
        visible = self._schedule.visible(measure_values(rows, self._config), step)
        return early_stopping_state(visible, self._config.validation.rule).stop

    def _results(self, wanted: set[int]) -> dict[int, Row]:
        """Those of these steps, once all are there; the first failure among them is raised at once."""
        end = time.monotonic() + self._config.validation.timeout_seconds
        while True:
            rows = {step: row for step, row in self._record.rows().items() if step in wanted}
            for step, row in rows.items():
                if "error" in row:
                    raise ValidationFailed(step, row["error"])
            if missing := wanted - rows.keys():
                if time.monotonic() > end:
                    raise ValidationFailed(
                        min(missing), f"no result within {self._config.validation.timeout_seconds:g} s"
                    )
                time.sleep(_POLL_SECONDS)
            else:
                return rows
