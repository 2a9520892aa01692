"""One rank of a training run under Ray Train, in a process of its own."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device

from hbt_ray.data.index.negatives import Negatives
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import read_manifest
from hbt_ray.data.stream.loader import LoaderConfig
from hbt_ray.data.stream.stream import stream
from hbt_ray.errors import HbtError, InputError, NonFiniteLoss, StorageError, ValidationFailed
from hbt_ray.host import keep_freed_memory
from hbt_ray.model.build import tokenising_config
from hbt_ray.model.options import load_for_training
from hbt_ray.train.auxiliary_texts import auxiliary_texts_of
from hbt_ray.train.checkpoint.manager import CheckpointManager
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.placement_group import note_reservation
from hbt_ray.train.step.loop import train
from hbt_ray.train.step.teacher import Teacher
from hbt_ray.train.step.train_step import TrainStep
from hbt_ray.train.validation.callback import ValidationCallback
from hbt_ray.train.validation.record import checkpoints_to_keep
from hbt_ray.train.worker.callbacks import StepCallbacks

_SECONDS_BETWEEN_LOOKS = 0.2


def train_worker(settings: dict[str, Any]) -> HbtError | None:
    """Train as the rank that this process is; `settings` are those of `trainer.fit`.

    Errors that all ranks meet alike are returned, as Ray Train would repeat in vain what raises them.
    """
    _end_with_raylet()
    try:
        _train(settings)
    except StorageError:  # One rank alone meets it; the others would wait for it in vain.
        raise
    except (InputError, NonFiniteLoss, ValidationFailed) as error:
        return error
    return None


def _end_with_raylet() -> None:
    """End this process as soon as its raylet has ended.

    The raylet of a local session ends with a driver that was killed. Ray looks for that every one or two seconds, and
    a rank could train on, write checkpoints and meet the ranks of the next command.
    """
    raylet = os.getppid()

    def watch() -> None:
        while os.getppid() == raylet:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, name="raylet watch", daemon=True).start()


def _train(settings: dict[str, Any]) -> None:
    config = TrainConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        note_reservation(config.run)
    if not config.workers.gpu:
        keep_freed_memory()
        torch.set_num_threads(max(1, round(config.workers.cpus)))

    encoder = load_for_training(config.run.base, config.model)
    manifest = read_manifest(config.store)
    plan = Plan(manifest, config.plan, Negatives.open(config.negatives, manifest) if config.negatives else None)
    device, width = get_device(), encoder.get_embedding_dimension()
    taught = config.teacher.encoder(width) if config.teacher else None
    learner = TrainStep(
        encoder,
        config.optimiser,
        Objective(config.loss, width),
        padding_id=encoder.tokenizer.pad_token_id,
        rank=rank,
        sizes=tuple(len(plan.batch(0).slice(other, world_size).items) for other in range(world_size)),
        device=device,
        teacher=Teacher(taught, config.optimiser, device) if taught else None,
        before_update=lambda step: settings["probe"].before_update(rank, step),
    )
    dev = config.validation
    keeper = CheckpointManager(
        config.run.checkpoints,
        learner,
        plan.identity,
        config.checkpoints.keep,
        needed=lambda: checkpoints_to_keep(config),
        written=lambda step, path: settings["probe"].written(step, path),
    )
    start = 0
    if state := keeper.restore():
        plan.require(state.plan, state.step)
        start = state.step
    watch = ValidationCallback(config, rank, start) if dev.store else None
    how = tokenising_config(encoder, config.model)
    loader = LoaderConfig(
        config.store,
        config.plan,
        how,
        config.stream.cache,
        config.negatives,
        auxiliary_texts_of(config.loss, how, config.teacher, taught),
        teacher_scores="teacher_scores" in config.loss.needs,
    )

    between = StepCallbacks(settings, config, rank, start, keeper, watch)
    batches = between.watched(stream(loader, range(start, settings["stop"]), rank, world_size, config.stream))
    try:
        train(learner, watch.until_stopped(batches) if watch else batches, between.record, between.save)
        between.end()
    finally:
        between.close()
