"""One rank of a training run under Ray Train, in a process of its own."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise

import ray
import ray.train
import torch
from ray.train.torch import get_device

from hbt_ray.data.stream.loader import LoaderConfig
from hbt_ray.data.stream.stream import stream
from hbt_ray.errors import HbtError, InputError, NonFiniteLoss, StorageError, ValidationFailed
from hbt_ray.host import keep_freed_memory
from hbt_ray.model.build import tokenising_config
from hbt_ray.model.trainable_encoder import load_for_training
from hbt_ray.storage import local_folder, write_text
from hbt_ray.train.checkpoint.manager import CheckpointManager
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.loss_requirements import auxiliary_texts
from hbt_ray.train.step.encoder_inputs import Teacher
from hbt_ray.train.step.train_step import TrainStep, train
from hbt_ray.train.validation.callback import ValidationCallback
from hbt_ray.train.validation.record import checkpoints_to_keep
from hbt_ray.train.worker.callbacks import StepCallbacks, WorkerSettings

_RAYLET_POLL_SECONDS = 0.2


def train_worker(settings: WorkerSettings) -> HbtError | None:
    """Train as the rank that this process is.

    Errors that occur on all ranks are returned: after an exception Ray Train would restart the workers in vain.
    """
    _exit_with_raylet()
    try:
        _train(settings)
    except StorageError:  # It may occur on one rank alone, and the others would wait for it.
        raise
    except (InputError, NonFiniteLoss, ValidationFailed) as error:
        return error
    return None


def _exit_with_raylet() -> None:
    """End this process as soon as its raylet has ended.

    The raylet of a local session ends with a driver that was killed. Ray's workers check for that every one or two
    seconds; until then a rank could train on, write checkpoints and connect to the ranks of the next command.
    """
    raylet = os.getppid()  # A process whose parent has ended gets another parent.

    def watch() -> None:
        while os.getppid() == raylet:
            time.sleep(_RAYLET_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="raylet watch", daemon=True).start()


def _train(settings: WorkerSettings) -> None:
    config, hooks = settings.config, settings.hooks
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0 and (group := ray.util.get_current_placement_group()):
        # The process that stops the run releases the group; see hbt_ray.train.driver.resources.
        write_text(config.run.placement_group, group.id.hex())
    if not config.workers.gpu:
        keep_freed_memory()
        torch.set_num_threads(max(1, round(config.workers.cpus)))

    encoder = load_for_training(local_folder(config.run.base), config.model)
    device, width = get_device(), encoder.get_embedding_dimension()
    teacher_encoder = config.teacher.load_encoder(width) if config.teacher else None
    train_step = TrainStep(
        encoder,
        config.optimiser,
        Objective(config.loss, width),
        padding_id=encoder.tokenizer.pad_token_id,
        rank=rank,
        rank_sizes=rank_sizes(config.plan.batch_size, world_size),
        device=device,
        teacher=Teacher(teacher_encoder, config.optimiser, device) if teacher_encoder else None,
        before_update=lambda step: hooks.before_update(rank, step),
    )
    checkpoints = CheckpointManager(
        config.run.checkpoints,
        train_step,
        settings.plan_identity,
        config.checkpoints.keep,
        needed_steps=lambda: checkpoints_to_keep(config),
        on_file_written=lambda step, path: hooks.on_checkpoint_file(step, path),
    )
    # Collective; it comes before the callbacks, which truncate the records to the restored step.
    restored = checkpoints.restore(settings.checkpoint)
    start_step = restored.step if restored else 0
    validation = ValidationCallback(config, rank, start_step) if config.validation.store else None
    callbacks = StepCallbacks(settings, rank, start_step, checkpoints, validation)
    student = tokenising_config(encoder, config.model)
    loader = LoaderConfig(
        config.store,
        config.plan,
        student,
        config.stream.cache,
        config.negatives,
        auxiliary_texts(config.loss, student, config.teacher, teacher_encoder),
        teacher_scores="teacher_scores" in config.loss.required_inputs,
    )
    steps = range(start_step, settings.stop_step)
    batches = callbacks.watch(stream(loader, steps, rank, world_size, config.stream))
    if validation:
        batches = validation.until_stopped(batches)
    try:
        train(train_step, batches, callbacks.on_step, callbacks.on_step_end)
        callbacks.on_train_end()
    finally:
        callbacks.close()


def rank_sizes(num_rows: int, world_size: int) -> tuple[int, ...]:
    """Rows of every rank's slice of a global batch, in rank order, as `Batch.slice` cuts it."""
    ends = [num_rows * rank // world_size for rank in range(world_size + 1)]
    return tuple(end - start for start, end in pairwise(ends))
