"""Training on a cluster: Ray Train runs the loop on every worker, restarts it after failures, keeps the checkpoints.

The driver checks everything that can be checked before a worker starts; the workers read the base encoder from the run
folder, continue from the latest checkpoint if there is one, and stream their slices. The same name continues a run.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from hbt_ray import ray_compat
from hbt_ray.data.index.negatives import Negatives
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError, HbtError, LostRank, ModelError, StalledRank, ValidationFailed
from hbt_ray.model.base_model import provide_base
from hbt_ray.model.loading import load_encoder
from hbt_ray.ray_session import session_folder
from hbt_ray.storage import is_unused, naming_storage_errors, write_text
from hbt_ray.train.auxiliary_texts import require_auxiliary_texts
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.metrics_actor import metrics_to
from hbt_ray.train.driver.resources import wait_for_resources
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.step.loop import StepOutcome
from hbt_ray.train.trackers import TrackerLogger
from hbt_ray.train.validation.record import ValidationRecord, check_validation, run_status
from hbt_ray.train.worker.hooks import Hooks
from hbt_ray.train.workers import WorkersConfig


def open_run(config: TrainConfig, bases: Path | None = None) -> int:
    """Check everything that can be wrong before a worker starts, then write the run's configuration and base encoder.

    Returns the number of steps that are done: 0, or those of the latest checkpoint.

    Args:
        bases: where runs share base encoders that are equal.

    Raises:
        InputError: the configuration, the store or a checkpoint cannot be used; nothing was written over.
    """
    run, store = config.run, Store(config.store, config.stream.cache)
    negatives = Negatives.open(config.negatives, store.manifest) if config.negatives else None
    plan = Plan(store.manifest, config.plan, negatives)
    if config.plan.batch_size < config.workers.most:
        raise ConfigError(
            f"plan.batch_size={config.plan.batch_size} leaves some of {config.workers.most} workers without a row; use "
            "fewer workers or larger batches"
        )
    config.trackers.require()
    require_auxiliary_texts(config.loss, config.teacher, plan, negatives)
    check_validation(config)
    if run.config.exists():
        if TrainConfig.load(run.config).model.identity != config.model.identity:
            raise ConfigError(f"run {run.name!r} has another `model` in {run.config}; give the new run another name")
    elif not is_unused(run.root):
        raise ConfigError(f"{run.root} exists but is not a run; nothing was changed. Give the run another name")
    done = 0
    if newest := CheckpointDirectory(run.checkpoints).newest():
        plan.require(newest[1].plan, newest[1].step)
        done = newest[1].step
    run.root.mkdir(parents=True, exist_ok=True)
    known = run.config.exists()
    write_text(run.config, config.to_yaml())
    try:
        provide_base(run.base, config.model, store, plan.languages, bases)
    except ModelError:
        if not known:
            run.config.unlink()  # The name stays free for a run with another model.
        raise
    if config.loss.dimensions or config.teacher:
        width = load_encoder(run.base).get_embedding_dimension()
        Objective(config.loss, width)
        if config.teacher:
            config.teacher.encoder(width)
    return done


def fit(
    config: TrainConfig,
    watch: Callable[[StepOutcome], None],
    until: int | None = None,
    *,
    probe: Hooks | None = None,
    say: Callable[[str], None] = lambda _: None,
    bases: Path | None = None,
) -> int:
    """Train, or continue, the run that `config` names; needs a Ray session.

    Args:
        watch: sees the outcome of every step, in order.
        until: stop after so many steps of the whole run, to be continued later.
        probe: looks into the ranks.
        say: is told what is waited for before training.
        bases: where runs share base encoders that are equal.

    Returns:
        The number of steps that are done.

    Raises:
        InputError: the configuration, the store or a checkpoint cannot be used; nothing was written over.
        ResourceError: the cluster cannot hold the workers.
        NonFiniteLoss: all ranks stopped; the last good checkpoint is kept.
        StalledRank, StorageError: restarts did not help; all checkpoints are kept.
        ValidationFailed: a checkpoint could not be judged; it is kept.
    """
    run, stop = config.run, min(until or config.optimiser.steps, config.optimiser.steps)
    wait_for_resources(config, say)
    done = open_run(config, bases)
    before = run_status(config, done)
    if (done >= stop or before.complete) and not before.missing:
        return done
    log, record = (
        TrackerLogger(run, config.trackers, config.model_dump(mode="json"), done),
        ValidationRecord(run.validation),
    )

    def learned(row: dict[str, Any]) -> None:
        outcome = StepOutcome(**row)
        log.outcome(outcome)
        log.dev(record.fresh())
        watch(outcome)

    with log, metrics_to(learned) as journal:
        settings = {"config": config.absolute().model_dump(mode="json"), "stop": stop}
        refusal = _run(_trainer(config, {**settings, "journal": journal, "probe": probe or Hooks()}), journal, config)
        log.dev(record.fresh())  # The last ones come after the last step.
        if refusal is not None:
            raise refusal
    return _validated(config) if config.validation.store else stop


def _trainer(config: TrainConfig, settings: dict[str, Any]) -> Any:
    """Ray Train's, for ranks with these settings."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    run, workers = config.run, config.workers
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(workers.start_seconds)
    # What Ray Train remembers of checkpoints: it would refuse to start where one of them is gone, and ours are pruned.
    (run.checkpoints / "checkpoint_manager_snapshot.json").unlink(missing_ok=True)

    def work(settings: dict[str, Any]) -> HbtError | None:
        # Nested, so that Ray sends it by value: its controller need not import torch to pass it on.
        from hbt_ray.train.worker.worker import train_worker

        return train_worker(settings)

    return ray_compat.trainer_without_placement_group_cleaner()(
        work,
        train_loop_config=settings,
        # Our own deadline comes first, since it can say where a rank was.
        torch_config=_torch_config(math.ceil(2 * workers.deadline_seconds) + 60),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpu,
            resources_per_worker=workers.each,
            elastic_resize_monitor_interval_s=workers.resize_seconds,
        ),
        run_config=RunConfig(
            name=run.checkpoints.name,
            storage_path=str(run.root),
            failure_config=FailureConfig(
                max_failures=workers.max_failures,
                # A node that announced its end still counts as room, so an elastic run tries in vain until it is gone.
                controller_failure_limit=3 if workers.least == workers.most else 20,
                max_preemption_failures=workers.max_preemptions,
                preemption_grace_s=workers.preemption_grace_seconds,
            ),
        ),
        validation_config=_beside(config),
    )


def _torch_config(timeout_seconds: int) -> Any:
    """Return Ray Train's settings of the process group. Needs a Ray session."""
    from ray.train.torch import TorchConfig

    folder = session_folder()
    if folder is None:
        return TorchConfig(timeout_s=timeout_seconds)
    return ray_compat.file_rendezvous(folder, timeout_seconds)


def _run(trainer: Any, journal: Any, config: TrainConfig) -> HbtError | None:
    """Train; returns what all ranks refused to go on for, if anything."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray Train writes below the run as well, and says of a full disk that its controller failed.
    with _interruptible(), naming_storage_errors(config.run.checkpoints, "the folder"):
        try:
            refusal: HbtError | None = trainer.fit().return_value
        except TrainingFailedError as error:
            raise _named(error, ray.get(journal.last_stall.remote()), config.workers) from error
    return refusal


def _beside(config: TrainConfig) -> Any:
    from hbt_ray.train.validation.callback import ray_validation_config

    return ray_validation_config(config)


def _validated(config: TrainConfig) -> int:
    """The steps that are done, once all checkpoints among them are validated."""
    newest = CheckpointDirectory(config.run.checkpoints).newest()
    done = newest[1].step if newest else 0
    if missing := run_status(config, done).missing:
        row = ValidationRecord(config.run.validation).rows().get(missing[0], {})
        raise ValidationFailed(missing[0], row.get("error", "its validation was lost or took too long"))
    return done


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ray Train puts a handler of its own on Ctrl-C, which ends the run and then the process, without a word."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _named(error: Exception, stall: tuple[int, dict[int, str]] | None, workers: WorkersConfig) -> HbtError:
    """What ended the training, in our own words where they are known."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, HbtError):
            return cause
    if stall is not None:
        return StalledRank(stall[0], workers.deadline_seconds, stall[1])
    for rank, failure in failures.items():
        if (health := getattr(failure, "health_check_failure", None)) is not None:
            return LostRank(rank, str(health), workers.max_failures)
    return HbtError(f"training failed: {error}")
