"""The keeper: one rank's side of the run's checkpoints under Ray Train.

Ray Train uploads in a thread of its own, lets the controller know, and has the checkpoint validated; what is written,
and how it becomes visible, is ours (`hbt_ray.train.checkpoint`). A checkpoint is there once it has its name, and not
only once the controller has heard of it: a run goes on from the newest that is whole, whatever Ray Train remembers.
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
from hbt_ray.train.checkpoint import format as checkpoint
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import Snapshot, State
from hbt_ray.train.step.train_step import TrainStep


class CheckpointManager:
    """Saves and restores a learner; all ranks call the same in the same order, and only rank 0 writes.

    Args:
        keep: so many of the newest checkpoints stay.
        needed: names others that stay; asked in the thread that writes.
        written: is told the step and every file of a checkpoint once the file is there.
    """

    def __init__(
        self,
        root: Path,
        learner: TrainStep,
        plan: dict[str, Any],
        keep: int,
        *,
        needed: Callable[[], Collection[int]] = tuple,
        written: Callable[[int, Path], None] = lambda step, path: None,
    ) -> None:
        self._shelf, self._learner, self._plan = CheckpointDirectory(root), learner, plan
        self._keep, self._needed, self._written = keep, needed, written
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._idle = Event()
        self._idle.set()
        self.saved_at: int | None = None
        """The step of the newest checkpoint that was asked for."""

    def restore(self) -> State | None:
        """Bring the learner to where the newest whole checkpoint was made; None if there is none.

        Raises:
            CheckpointError: on all ranks alike.
        """
        found: Path | CheckpointError | None = None
        if self._is_first:
            self._shelf.clear()
            try:
                newest = self._shelf.newest()
                found = newest[0] if newest else None
            except CheckpointError as error:
                found = error
        found = broadcast_from_rank_zero(found)
        if isinstance(found, CheckpointError):
            raise found
        return checkpoint.restore(found, self._learner) if found else None

    def save(self, step: int, *, validation: Any = False, at_once: bool = False) -> None:
        """Save the learner after `step` steps, beside training, once the checkpoint before is done.

        Args:
            validation: what Ray Train is to be told of it.
            at_once: return when it is on the disk.
        """
        self.wait()
        self.saved_at = step
        target, taken = self._shelf.path(step), None
        if self._is_first:
            taken = checkpoint.snapshot(self._learner, step, self._plan)
            self._idle.clear()

        def publish(_: Checkpoint, name: str) -> Checkpoint:
            if taken is not None:
                self._publish(taken)
            return Checkpoint(str(target))

        ray.train.report(
            {"step": step},
            checkpoint=Checkpoint(str(target)) if self._is_first else None,
            checkpoint_dir_name=target.name,
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if at_once else CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=publish,
            delete_local_checkpoint_after_upload=False,
            validation=validation,
        )

    def wait(self) -> None:
        """Return when what this rank writes is on the disk, or was refused."""
        self._idle.wait()

    def _publish(self, taken: Snapshot) -> None:
        step = taken.state.step
        try:
            with self._shelf.publishing(step) as folder:
                checkpoint.write(folder, taken, partial(self._written, step))
        except StorageError as error:  # Its path is a scratch file; the user knows the checkpoint.
            raise self._refused(step, error.reason, error.free_bytes) from error
        except (OSError, RuntimeError) as error:  # torch.save says of a full disk that a file operation failed.
            raise self._refused(step, str(error), -1) from error
        finally:
            self._idle.set()
        self._shelf.prune(self._keep, self._needed())

    def _refused(self, step: int, reason: str, free_bytes: int) -> StorageError:
        return StorageError(str(self._shelf.path(step)), reason, free_bytes, f"the checkpoint of step {step}")
