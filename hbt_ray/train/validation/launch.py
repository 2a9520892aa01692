"""How a validation is run on the cluster: by Ray Train for every checkpoint that is reported, or as a plain task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import ray.train

from hbt_ray.train.settings import TrainConfig


def beside(config: TrainConfig) -> ray.train.ValidationConfig | None:
    """For the trainer: one validation at a time, and `fit` waits for those that were asked for."""
    if not config.validation.store:
        return None
    settings = config.absolute().model_dump(mode="json")

    def validate(checkpoint: ray.train.Checkpoint, step: int) -> dict[str, Any]:
        # Nested, so that Ray sends it by value: its controller need not import torch to pass it on.
        from hbt_ray.train.validation.task import validate as task

        return task(settings, Path(checkpoint.path), step)

    return ray.train.ValidationConfig(fn=validate, ray_remote_kwargs=options(config))


def asked(config: TrainConfig, step: int) -> ray.train.ValidationTaskConfig:
    """For the report of a checkpoint."""
    return ray.train.ValidationTaskConfig({"step": step}, config.validation.timeout_seconds)


def launch(config: TrainConfig, step: int) -> ray.ObjectRef:
    """Validate a checkpoint that was reported earlier; the task ends with the process that launched it."""

    def validate(settings: dict[str, Any], folder: str) -> dict[str, Any]:
        from hbt_ray.train.validation.task import validate as task

        return task(settings, Path(folder), step)

    settings = config.absolute().model_dump(mode="json")
    return ray.remote(validate).options(**options(config)).remote(settings, str(config.run.checkpoint(step)))


def options(config: TrainConfig) -> dict[str, Any]:
    """What the task asks of the cluster.

    With no CPU of its own it starts where workers hold every one. Variables of its own give it processes that serve
    nothing else, so that their low priority harms nobody.
    """
    threads = str(max(1, int(config.validation.cpus)))
    variables = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", "HBT_VALIDATION": "1"}
    return {
        "num_cpus": config.validation.cpus,
        "num_gpus": 1 if config.validation.gpu else 0,
        "runtime_env": {"env_vars": variables},
    }
