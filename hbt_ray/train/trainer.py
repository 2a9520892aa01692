"""Training on a cluster: Ray Train runs the loop on every worker, restarts it after failures, keeps the checkpoints.

The driver checks everything that can be checked before a worker starts; the workers read the base encoder from the run
folder, continue from the latest checkpoint if there is one, and stream their slices. The same name continues a run.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from pydantic import Field, field_validator

from hbt_ray.config import Config
from hbt_ray.data.plan import Plan, PlanConfig
from hbt_ray.data.store import Store
from hbt_ray.data.stream import Origin, StreamConfig, stream
from hbt_ray.errors import ConfigError, HbtError, InputError, NonFiniteLoss, ResourceError
from hbt_ray.run import Run, published
from hbt_ray.train import checkpoint
from hbt_ray.train.loop import Learner, OptimiserConfig, Outcome, train
from hbt_ray.train.loss import LossConfig
from hbt_ray.train.model import ModelConfig, build, load, tokenising


class WorkersConfig(Config):
    """The training processes."""

    count: int = Field(1, gt=0)
    """Ranks; each takes its slice of every global batch."""
    cpus: float = Field(1, gt=0)
    """Logical CPUs that one worker reserves; data tasks need some beside them."""
    gpu: bool = False
    """One GPU a worker."""
    max_failures: int = Field(3, ge=-1)
    """Restarts after a worker died, from the latest checkpoint; -1 is without end."""


class CheckpointsConfig(Config):
    """When to save."""

    every: int = Field(100, gt=0)
    """Steps between checkpoints; the last step always makes one."""
    keep: int = Field(2, gt=0)
    """So many of the newest stay."""


class TrainConfig(Config):
    """A training run."""

    name: str = Field(min_length=1)
    """Of the run: its folder under `storage_path`. The same name continues it."""
    store: Path
    storage_path: Path = Path("runs")
    model: ModelConfig = ModelConfig()
    plan: PlanConfig = PlanConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    stream: StreamConfig = StreamConfig()
    workers: WorkersConfig = WorkersConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()

    @field_validator("name")
    @classmethod
    def _one_folder(cls, name: str) -> str:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no plain folder name; put the path into storage_path")
        return name

    @property
    def run(self) -> Run:
        return Run(self.storage_path.absolute() / self.name)


def open_run(config: TrainConfig) -> int:
    """Check everything that can be wrong before a worker starts, then write the run's configuration and base encoder.

    Returns the number of steps that are done: 0, or those of the latest checkpoint.

    Raises:
        InputError: the configuration, the store or a checkpoint cannot be used; nothing was written over.
    """
    run, store = config.run, Store(config.store)
    plan = Plan(store.manifest, config.plan)
    if config.plan.batch_size % config.workers.count:
        raise ConfigError(
            f"plan.batch_size={config.plan.batch_size} does not divide among workers.count={config.workers.count}; "
            f"use a multiple of {config.workers.count}, so that every rank holds as many rows"
        )
    if run.config.exists():
        if TrainConfig.load(run.config).model != config.model:
            raise ConfigError(f"run {run.name!r} has another `model` in {run.config}; give the new run another name")
    elif run.root.exists() and any(run.root.iterdir()):
        raise ConfigError(f"{run.root} is there and is no run, so it is left alone; give the run another name")
    done = 0
    if latest := latest_checkpoint(run):
        state = checkpoint.inspect(latest)
        plan.require(state.plan)
        done = state.step
    run.root.mkdir(parents=True, exist_ok=True)
    run.config.write_text(config.to_yaml(), encoding="utf-8")
    if not run.base.exists():
        encoder = build(config.model, store.sample_texts(plan.languages))
        with published(run.base) as folder:
            encoder.save_pretrained(str(folder), create_model_card=False)
    return done


def fit(config: TrainConfig, watch: Callable[[Outcome], None], until: int | None = None) -> int:
    """Train, or continue, the run that `config` names; needs a Ray session.

    Args:
        watch: sees the outcome of every step, in order.
        until: stop after so many steps of the whole run, to be continued later.

    Returns:
        The number of steps that are done.

    Raises:
        InputError: the configuration, the store or a checkpoint cannot be used; nothing was written over.
        ResourceError: the cluster cannot hold the workers.
        NonFiniteLoss: all ranks stopped; the last good checkpoint is kept.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    run, stop = config.run, min(until or config.optimiser.steps, config.optimiser.steps)
    done = open_run(config)
    if done >= stop:
        return done
    _check_resources(config.workers)
    with _journal(run, watch) as journal:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"config": config.model_dump(mode="json"), "stop": stop, "journal": journal},
            scaling_config=ScalingConfig(
                num_workers=config.workers.count,
                use_gpu=config.workers.gpu,
                resources_per_worker={"CPU": config.workers.cpus, **({"GPU": 1} if config.workers.gpu else {})},
            ),
            run_config=RunConfig(
                name=run.checkpoints.name,
                storage_path=str(run.root),
                failure_config=FailureConfig(max_failures=config.workers.max_failures, controller_failure_limit=3),
                checkpoint_config=CheckpointConfig(num_to_keep=config.checkpoints.keep),
            ),
        )
        try:
            refusal = trainer.fit().return_value
        except TrainingFailedError as error:
            raise HbtError(f"training failed: {error}") from error
    if refusal is not None:
        raise refusal
    return stop


def latest_checkpoint(run: Run) -> Path | None:
    """The folder of the newest committed checkpoint."""
    from ray.train import Result

    try:
        latest = Result.from_path(str(run.checkpoints)).checkpoint
    except RuntimeError:  # No checkpoint was ever committed.
        return None
    return Path(latest.path) if latest else None


def _check_resources(workers: WorkersConfig) -> None:
    """Ray would wait for ever for what a cluster of fixed size does not have."""
    have = ray.cluster_resources()
    wanted = {"CPU": workers.count * workers.cpus + 1, **({"GPU": workers.count} if workers.gpu else {})}
    for resource, amount in wanted.items():
        if have.get(resource, 0) < amount:
            raise ResourceError(
                f"the cluster has {have.get(resource, 0):g} {resource}, but {workers.count} workers"
                f"{' and a data task' if resource == 'CPU' else ''} need {amount:g}; "
                "lower workers.count or workers.cpus, or add nodes"
            )


def _work(settings: dict[str, Any]) -> HbtError | None:
    """One rank. Errors that all ranks meet alike are returned, as Ray Train would repeat in vain what raises them."""
    try:
        _train_rank(settings)
    except (InputError, NonFiniteLoss) as error:
        return error
    return None


def _train_rank(settings: dict[str, Any]) -> None:
    from ray.train.torch import get_device

    config = TrainConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if not config.workers.gpu:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))

    encoder = load(config.run.base)
    plan = Plan(Store(config.store).manifest, config.plan)
    sizes = tuple(len(plan.batch(0).slice(other, world_size).items) for other in range(world_size))
    learner = Learner(
        encoder,
        config.optimiser,
        config.loss,
        padding_id=encoder.tokenizer.pad_token_id,
        rank=rank,
        sizes=sizes,
        device=get_device(),
    )
    start = _continue(learner, plan)
    origin = Origin(config.store.absolute(), config.plan, tokenising(encoder, config.model), rank, world_size)

    def record(outcome: Outcome) -> None:
        if rank == 0:
            settings["journal"].write.remote(asdict(outcome))

    def save(step: int) -> None:
        if step % config.checkpoints.every and step != settings["stop"]:
            return
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                checkpoint.save(Path(folder), learner, step, plan.identity)
            made = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
            ray.train.report({"step": step}, checkpoint=made, checkpoint_dir_name=f"step-{step:08d}")

    train(learner, stream(origin, start, settings["stop"], config.stream), record, save)


def _continue(learner: Learner, plan: Plan) -> int:
    """The step to start with: 0, or where the latest checkpoint ends."""
    latest = ray.train.get_checkpoint()
    if latest is None:
        return 0
    with latest.as_directory() as folder:
        state = checkpoint.restore(Path(folder), learner)
    plan.require(state.plan)
    return state.step


class _Journal:
    """Carries outcomes from rank 0, wherever it runs, to the driver."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        rows, self._rows = self._rows, []
        return rows


@contextmanager
def _journal(run: Run, watch: Callable[[Outcome], None]) -> Iterator[Any]:
    """A journal whose rows reach the metrics file and `watch` while the block runs."""
    journal, ended = ray.remote(num_cpus=0)(_Journal).remote(), threading.Event()

    def drain() -> None:
        with run.metrics.open("a", encoding="utf-8") as file:
            for row in ray.get(journal.take.remote()):
                file.write(json.dumps(row) + "\n")
                watch(Outcome(**row))

    def follow() -> None:
        while not ended.wait(0.5):
            drain()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield journal
    finally:
        ended.set()
        thread.join()
        drain()
        ray.kill(journal)
