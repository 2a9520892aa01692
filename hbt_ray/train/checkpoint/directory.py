"""The checkpoints of a run, on a file system that all its nodes see or in an object store.

CHECKPOINTS/step-00000400/            complete: renamed to this name once all of it was on the disk
CHECKPOINTS/.step-00000500.….part     being written, or left by a writer that died; never read, deleted at a start

In an object store a checkpoint is a published folder (`hbt_ray.storage.published_folder`). A listing there may lack the
newest one, so rank 0, the only writer, keeps the steps in CHECKPOINTS/steps.json.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from hbt_ray.errors import CheckpointError, StorageError
from hbt_ray.storage import AnyPath, ObjectPath, read_checked_json, remove_tree, write_checked_json
from hbt_ray.train.checkpoint.format import STEP_NAME, CheckpointInfo, verify_checkpoint

logger = logging.getLogger(__name__)

_PREFIX = "step-"
_STEPS = "steps.json"


class CheckpointDirectory:
    """The checkpoints below a folder, which need not exist yet."""

    def __init__(self, root: AnyPath) -> None:
        self.root = root

    def path(self, step: int) -> AnyPath:
        """Folder of the checkpoint after `step` steps, whether it exists or not."""
        return self.root / f"{_PREFIX}{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if isinstance(self.root, ObjectPath):
            try:
                return list(read_checked_json(self.root / _STEPS)["steps"])
            except FileNotFoundError:
                return []
        names = (re.fullmatch(STEP_NAME, path.name) for path in self.root.glob(f"{_PREFIX}*"))
        return sorted(int(name[1]) for name in names if name)

    def add(self, step: int) -> None:
        """Note that the checkpoint of a step is complete. Only rank 0 calls it."""
        if isinstance(self.root, ObjectPath):
            self._write_steps({*self.steps(), step})

    def newest(self) -> tuple[AnyPath, CheckpointInfo] | None:
        """The newest undamaged checkpoint, or None if none was made. It reads and hashes the whole checkpoint.

        Damaged checkpoints are skipped with a warning.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                newest = self.path(step), verify_checkpoint(self.path(step))
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:  # Newer checkpoints that are damaged.
                logger.warning("%s; going on from step %d instead", problem, step)
            return newest
        if problems:
            raise CheckpointError(
                f"all checkpoints in {self.root} are damaged, so the run cannot go on: {'; '.join(problems)}. Restore "
                "one from a copy, or start a run of another name",
                code="DAMAGED_CHECKPOINT",
            )
        return None

    def prune(self, keep: int, needed: Collection[int] = ()) -> None:
        """Delete all but the newest `keep` checkpoints and those of the steps in `needed`."""
        unneeded = steps_to_delete(steps := self.steps(), needed, keep)
        if isinstance(self.root, ObjectPath) and unneeded:
            self._write_steps(set(steps) - set(unneeded))  # First: no reader may find half of one.
        for step in unneeded:
            _delete(self.path(step))

    def delete_partial(self) -> None:
        """Delete what dead writers left. Call it before this run's writer starts, never while it runs."""
        if isinstance(self.root, ObjectPath):
            known = {self.path(step).name for step in self.steps()}
            for name in self.root.names():
                if re.fullmatch(STEP_NAME, name) and name not in known:
                    _delete(self.root / name)
            return
        for path in self.root.glob(f".{_PREFIX}*"):
            _delete(path)

    def _write_steps(self, steps: set[int]) -> None:
        write_checked_json(self.root / _STEPS, {"steps": sorted(steps)})


def steps_to_delete(steps: Collection[int], needed: Collection[int], keep: int) -> list[int]:
    """All steps but the needed ones and the newest `keep`, of which at least one stays."""
    newest = sorted(steps)[-max(keep, 1) :]
    return [step for step in sorted(steps) if step not in newest and step not in needed]


def _delete(folder: AnyPath) -> None:
    """Rename to a hidden name, so that no process reads half of it, then delete."""
    hidden = folder
    try:
        if isinstance(folder, Path) and not folder.name.startswith("."):
            hidden = folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part"))
        remove_tree(hidden)
    except (OSError, StorageError) as error:
        logger.warning("%s could not be deleted (%s); it takes disk space and is harmless otherwise", folder, error)
