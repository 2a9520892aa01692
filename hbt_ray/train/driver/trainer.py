"""Training on a cluster: Ray Train runs the workers, restarts them after failures and has checkpoints validated.

The driver checks everything that can be checked before a worker starts. The workers load the base encoder from the run
folder, continue from the newest checkpoint if there is one, and stream their slices of the batches. The same name
continues a run.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from hbt_ray import ray_compat
from hbt_ray.data.index.negatives import Negatives
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError, HbtError, LostRank, ModelError, StalledRank, ValidationFailed
from hbt_ray.model.build import provide_base
from hbt_ray.model.loading import load_encoder
from hbt_ray.ray_session import session_folder
from hbt_ray.storage import (
    AnyPath,
    ObjectPath,
    check_access,
    is_unused,
    local_folder,
    naming_storage_errors,
    write_text,
)
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import CheckpointInfo
from hbt_ray.train.config import TrainConfig, WorkersConfig
from hbt_ray.train.driver.metrics_actor import metrics_actor
from hbt_ray.train.driver.resources import wait_for_resources
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.loss_requirements import require_auxiliary_texts
from hbt_ray.train.step.train_step import StepMetrics
from hbt_ray.train.trackers import TrackerLogger
from hbt_ray.train.validation.record import SECONDS_BETWEEN_LISTINGS, ValidationRecord, check_validation, run_status
from hbt_ray.train.worker.callbacks import Hooks, WorkerSettings

_COLLECTIVE_MARGIN_SECONDS = 60
"""torch's timeout of collectives exceeds twice the watchdog's by this much: the watchdog must expire first, since only
it reports where a rank is stuck."""
_CONTROLLER_FAILURES, _ELASTIC_CONTROLLER_FAILURES = 3, 20
"""Failed starts of a worker group. Ray counts a node that announced its end as free, so an elastic run tries in vain
until the node is gone."""


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run whose configuration, data and newest checkpoint were checked."""

    checkpoint: CheckpointInfo | None
    """The newest undamaged checkpoint; None before the first."""
    plan_identity: dict[str, Any]
    """`Plan.identity` of the configured plan."""

    @property
    def step(self) -> int:
        """Finished steps, and the number of the next one."""
        return self.checkpoint.step if self.checkpoint else 0


def open_run(config: TrainConfig, shared_bases: AnyPath | None = None) -> OpenedRun:
    """Check everything that can be wrong before a worker starts, then write the run's configuration and base encoder.

    Needs no Ray session.

    Args:
        shared_bases: folder in which runs with equal base encoders share them.

    Raises:
        InputError: the configuration, the store or a checkpoint cannot be used; nothing was overwritten.
    """
    if isinstance(config.run.root, ObjectPath):
        check_access(config.run.root)
    run, store = config.run, Store(config.store, config.stream.cache)
    negatives = Negatives.open(config.negatives, store.manifest) if config.negatives else None
    plan = Plan(store.manifest, config.plan, negatives)
    if config.plan.batch_size < config.workers.max_count:
        raise ConfigError(
            f"plan.batch_size={config.plan.batch_size} leaves some of {config.workers.max_count} workers without a "
            "row; use fewer workers or larger batches",
            code="BATCH_TOO_SMALL",
        )
    config.trackers.check_packages()
    require_auxiliary_texts(config.loss, config.teacher, plan, negatives)
    check_validation(config)
    is_new = not run.config.exists()
    if is_new and not is_unused(run.root):
        raise ConfigError(
            f"{run.root} exists but is not a run; nothing was changed. Give the run another name", code="NOT_A_RUN"
        )
    if not is_new and TrainConfig.load(run.config).model.identity != config.model.identity:
        raise ConfigError(
            f"run {run.name!r} has another `model` in {run.config}; give the new run another name", code="OTHER_MODEL"
        )
    newest = CheckpointDirectory(run.checkpoints).newest()
    checkpoint = newest[1] if newest else None
    if checkpoint:
        plan.require(checkpoint.plan, checkpoint.step)
    write_text(run.config, config.to_yaml())
    try:
        provide_base(run.base, config.model, store, plan.languages, shared_bases)
    except ModelError:
        if is_new:
            run.config.unlink()  # The name stays free for a run with another model.
        raise
    # These need the width of the vectors. They are built for their errors alone, before any worker starts.
    if config.loss.dimensions or config.teacher:
        width = load_encoder(local_folder(run.base)).get_embedding_dimension()
        Objective(config.loss, width)
        if config.teacher:
            config.teacher.load_encoder(width)
    return OpenedRun(checkpoint, plan.identity)


def fit(
    config: TrainConfig,
    on_step: Callable[[StepMetrics], None],
    until: int | None = None,
    *,
    opened: OpenedRun | None = None,
    hooks: Hooks | None = None,
    on_wait: Callable[[str], None] = lambda _: None,
    shared_bases: AnyPath | None = None,
) -> int:
    """Train, or continue, the run that `config` names. Needs a Ray session.

    Args:
        on_step: called with the metrics of every step, in order.
        until: stop after this many steps of the whole run, to be continued later.
        opened: what `open_run` returned for the same configuration, if it was called already.
        hooks: hooks into the ranks, for tests.
        on_wait: called with a message while the run waits for resources.
        shared_bases: folder in which runs with equal base encoders share them.

    Raises:
        InputError: the configuration, the store or a checkpoint cannot be used; nothing was overwritten.
        ResourceError: the cluster cannot hold the workers.
        NonFiniteLoss: all ranks stopped; the last good checkpoint is kept.
        StalledRank, LostRank, StorageError: restarts did not help; all checkpoints are kept.
        ValidationFailed: a checkpoint could not be evaluated; it is kept.
    """
    stop_step = min(until or config.optimiser.steps, config.optimiser.steps)
    opened = opened or open_run(config, shared_bases)
    status = run_status(config, opened.step)
    # A finished run still starts workers if validations are missing: they are made up for there.
    if (opened.step >= stop_step or status.complete) and not status.missing:
        return opened.step
    wait_for_resources(config, on_wait)
    trackers = TrackerLogger(config.run, config.trackers, config.model_dump(mode="json"), opened.step)
    validations = ValidationRecord(config.run.validation)

    def on_row(row: dict[str, Any]) -> None:
        metrics = StepMetrics(**row)
        trackers.log_step(metrics)
        trackers.log_validations(validations.fresh(seconds=SECONDS_BETWEEN_LISTINGS))
        on_step(metrics)

    with trackers, metrics_actor(on_row) as actor:
        settings = WorkerSettings(
            config.absolute(), stop_step, opened.plan_identity, opened.checkpoint, actor, hooks or Hooks()
        )
        error = _run(_make_trainer(settings), actor, config)
        trackers.log_validations(validations.fresh())  # The last results come after the last step.
        if error is not None:
            raise error
    return _require_validated(config) if config.validation.store else stop_step


def _make_trainer(settings: WorkerSettings) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from hbt_ray.train.validation.callback import ray_validation_config

    config = settings.config
    run, workers = config.run, config.workers
    timeout = math.ceil(2 * workers.deadline_seconds) + _COLLECTIVE_MARGIN_SECONDS
    folder = session_folder()  # On one machine the ranks' rendezvous is a file of the session.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(workers.start_seconds)
    # Ray Train's own list of checkpoints. It would refuse to start if one of them is gone, and we delete old ones.
    (run.checkpoints / "checkpoint_manager_snapshot.json").unlink(missing_ok=True)

    def work() -> HbtError | None:
        # Nested, so that Ray pickles it by value: its controller need not import torch to pass it on.
        from hbt_ray.train.worker.worker import train_worker

        return train_worker(settings)

    return ray_compat.trainer_without_placement_group_cleaner()(
        work,
        torch_config=ray_compat.file_rendezvous(folder, timeout) if folder else TorchConfig(timeout_s=timeout),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpu,
            resources_per_worker=workers.resources,
            elastic_resize_monitor_interval_s=workers.resize_seconds,
        ),
        run_config=RunConfig(
            name=run.checkpoints.name,
            **_storage_of(run.root),
            failure_config=FailureConfig(
                max_failures=workers.max_failures,
                controller_failure_limit=(
                    _CONTROLLER_FAILURES if workers.min_count == workers.max_count else _ELASTIC_CONTROLLER_FAILURES
                ),
                max_preemption_failures=workers.max_preemptions,
                preemption_grace_s=workers.preemption_grace_seconds,
            ),
        ),
        validation_config=ray_validation_config(config),
    )


def _storage_of(root: AnyPath) -> dict[str, Any]:
    """Ray Train's arguments for the folder of a run."""
    if isinstance(root, Path):
        return {"storage_path": str(root)}
    filesystem, path = root.filesystem()
    return {"storage_path": path, "storage_filesystem": filesystem}


def _run(trainer: Any, actor: Any, config: TrainConfig) -> HbtError | None:
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray Train writes below the run too, and reports a full disk as a failed controller.
    with _keyboard_interrupt(), naming_storage_errors(str(config.run.checkpoints), "the folder"):
        try:
            error: HbtError | None = trainer.fit().return_value
        except TrainingFailedError as failure:
            raise _explain(failure, ray.get(actor.last_stall.remote()), config.workers) from failure
    return error


def _require_validated(config: TrainConfig) -> int:
    """The number of finished steps, once all due checkpoints among them are validated."""
    steps = CheckpointDirectory(config.run.checkpoints).steps()
    step = steps[-1] if steps else 0
    if missing := run_status(config, step).missing:
        row = ValidationRecord(config.run.validation).rows().get(missing[0], {})
        raise ValidationFailed(missing[0], row.get("error", "its validation was lost or took too long"))
    return step


@contextmanager
def _keyboard_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C: Ray Train's own handler ends the run and then the process, silently."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _explain(failure: Exception, stall: tuple[int, dict[int, str]] | None, workers: WorkersConfig) -> HbtError:
    """Turn Ray Train's error into the `HbtError` that caused it."""
    worker_failures = getattr(failure, "worker_failures", {})
    for worker_failure in worker_failures.values():
        cause = getattr(worker_failure, "_base_exc", worker_failure)  # Ray Train's wrapper has no public field for it.
        if isinstance(cause, HbtError):
            return cause
    # Before lost ranks: a watchdog ends its own process, so a stalled rank is reported as lost as well.
    if stall is not None:
        return StalledRank(stall[0], workers.deadline_seconds, stall[1])
    for rank, worker_failure in worker_failures.items():
        if (health := getattr(worker_failure, "health_check_failure", None)) is not None:
            return LostRank(rank, str(health), workers.max_failures)
    return HbtError(f"training failed: {failure}", code="TRAINING_FAILED")
