"""How a validation is run on the cluster: by Ray Train for every checkpoint that is reported, or as a plain task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train

from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig


def beside(config: TrainConfig) -> ray.train.ValidationConfig | None:
    """For the trainer: one validation at a time, and `fit` waits for those that were asked for."""
    if not config.validation.store:
        return None
    judge = _judge(config)

    def validate(checkpoint: ray.train.Checkpoint, step: int) -> dict[str, Any]:
        return judge(checkpoint.path, step)

    return ray.train.ValidationConfig(fn=validate, ray_remote_kwargs=options(config))


def asked(config: TrainConfig, step: int) -> ray.train.ValidationTaskConfig:
    """For the report of a checkpoint."""
    return ray.train.ValidationTaskConfig({"step": step}, config.validation.timeout_seconds)


def launch(config: TrainConfig, steps: Sequence[int]) -> ray.ObjectRef:
    """Validate checkpoints that were reported earlier, in turn; the task ends with the process that launched it."""
    judge, folders = _judge(config), [str(CheckpointDirectory(config.run.checkpoints).path(step)) for step in steps]

    def validate() -> None:
        for folder, step in zip(folders, steps, strict=True):
            judge(folder, step)

    return ray.remote(validate).options(**options(config)).remote()


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


def options(config: TrainConfig) -> dict[str, Any]:
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
