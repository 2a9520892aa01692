"""One rank's side of the run's checkpoints under Ray Train.

Ray Train calls the upload in a thread, notifies its controller and has the checkpoint validated. The files, and the
rename that makes them visible, are our own (`hbt_ray.train.checkpoint.directory`). A checkpoint exists as soon as its
folder has its final name: a run continues from the newest undamaged one, even if the controller was not notified.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.collective import broadcast_from_rank_zero

from hbt_ray.errors import CheckpointError, StorageError
from hbt_ray.storage import AnyPath, atomic_folder
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import (
    CheckpointInfo,
    Snapshot,
    restore_checkpoint,
    take_snapshot,
    write_checkpoint,
)
from hbt_ray.train.step.train_step import TrainStep


def checkpoint_at(path: AnyPath) -> Checkpoint:
    """Ray Train's handle of a folder."""
    if isinstance(path, Path):
        return Checkpoint(str(path))
    filesystem, name = path.filesystem()
    return Checkpoint(name, filesystem)


class CheckpointManager:
    """Saves and restores a `TrainStep`. All ranks call the same methods in the same order; only rank 0 writes.

    Args:
        plan: `Plan.identity`, stored in each checkpoint.
        needed_steps: returns steps whose checkpoints are kept too; called in the thread that writes.
        on_file_written: called with the step and the path of each file of a checkpoint once it is complete.
    """

    def __init__(
        self,
        root: AnyPath,
        train_step: TrainStep,
        plan: dict[str, Any],
        keep: int,
        *,
        needed_steps: Callable[[], Collection[int]] = tuple,
        on_file_written: Callable[[int, Path], None] = lambda step, path: None,
    ) -> None:
        self._directory, self._train_step, self._plan = CheckpointDirectory(root), train_step, plan
        self._keep, self._needed_steps, self._on_file_written = keep, needed_steps, on_file_written
        self._is_rank_zero = ray.train.get_context().get_world_rank() == 0
        self._idle = Event()
        self._idle.set()
        self.last_saved_step: int | None = None
        """Step of the newest `save`."""

    def restore(self, verified: CheckpointInfo | None = None) -> CheckpointInfo | None:
        """Load the newest undamaged checkpoint on all ranks; None if there is none.

        Rank 0 hashes it once for all ranks, unless the driver did so before it started the workers.

        Raises:
            CheckpointError: on all ranks alike.
        """
        newest: tuple[AnyPath, CheckpointInfo] | CheckpointError | None = None
        if self._is_rank_zero:
            self._directory.delete_partial()
            steps = self._directory.steps()
            if verified is not None and steps and steps[-1] == verified.step:
                newest = self._directory.path(verified.step), verified
            else:  # Made by workers that died since, or the verified one is gone.
                try:
                    newest = self._directory.newest()
                except CheckpointError as error:
                    newest = error
        # Errors are broadcast too: if rank 0 raised here, the other ranks would wait for the collective.
        newest = broadcast_from_rank_zero(newest)
        if isinstance(newest, CheckpointError):
            raise newest
        return restore_checkpoint(newest[0], self._train_step, newest[1]) if newest else None

    def save(self, step: int, *, validation: Any = False, blocking: bool = False) -> None:
        """Save the state after `step` steps, in a thread, once the checkpoint before is written.

        Args:
            validation: passed to `ray.train.report`.
            blocking: return when the checkpoint is on the disk.
        """
        self.wait()
        self.last_saved_step = step
        target, snapshot = self._directory.path(step), None
        if self._is_rank_zero:
            snapshot = take_snapshot(self._train_step, step, self._plan)
            self._idle.clear()

        def upload(_: Checkpoint, name: str) -> Checkpoint:
            if snapshot is not None:
                self._publish(snapshot)
            return checkpoint_at(target)

        ray.train.report(
            {"step": step},
            checkpoint=checkpoint_at(target) if self._is_rank_zero else None,
            checkpoint_dir_name=target.name,
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if blocking else CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            delete_local_checkpoint_after_upload=False,  # The path is the checkpoint itself, not a local copy.
            validation=validation,
        )

    def wait(self) -> None:
        """Wait until this rank's last checkpoint is on the disk or has failed."""
        self._idle.wait()

    def _publish(self, snapshot: Snapshot) -> None:
        step = snapshot.info.step
        try:
            with atomic_folder(self._directory.path(step)) as folder:
                write_checkpoint(folder, snapshot, partial(self._on_file_written, step))
            self._directory.add(step)
        except StorageError as error:  # Its path is a temporary file; the message must name the checkpoint.
            raise self._storage_error(step, error.reason, error.free_bytes) from error
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError if the disk is full.
            raise self._storage_error(step, str(error), -1) from error
        finally:
            self._idle.set()
        # After `_idle` is set, since the next save need not wait for deletions.
        self._directory.prune(self._keep, self._needed_steps())

    def _storage_error(self, step: int, reason: str, free_bytes: int) -> StorageError:
        return StorageError(str(self._directory.path(step)), reason, free_bytes, f"the checkpoint of step {step}")
