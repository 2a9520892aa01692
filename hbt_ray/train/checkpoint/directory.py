"""The checkpoints of a run, on a file system that all its nodes see.

CHECKPOINTS/step-00000400/            complete: renamed to this name once all of it was on the disk
CHECKPOINTS/.step-00000500.….part     being written, or left by a writer that died; never read, deleted at a start
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from hbt_ray.errors import CheckpointError
from hbt_ray.storage import remove_tree
from hbt_ray.train.checkpoint.format import STEP_NAME, CheckpointInfo, verify_checkpoint

logger = logging.getLogger(__name__)

_PREFIX = "step-"


class CheckpointDirectory:
    """The checkpoints below a folder, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` steps, whether it exists or not."""
        return self.root / f"{_PREFIX}{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        names = (re.fullmatch(STEP_NAME, path.name) for path in self.root.glob(f"{_PREFIX}*"))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> tuple[Path, CheckpointInfo] | None:
        """The newest undamaged checkpoint, or None if none was made. It reads and hashes the whole checkpoint.

        Damaged checkpoints are skipped with a warning.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        problems = []
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
        for step in steps_to_delete(self.steps(), needed, keep):
            _delete(self.path(step))

    def delete_partial(self) -> None:
        """Delete what dead writers left. Call it before this run's writer starts, never while it runs."""
        for path in self.root.glob(f".{_PREFIX}*"):
            _delete(path)


def steps_to_delete(steps: Collection[int], needed: Collection[int], keep: int) -> list[int]:
    """All steps but the needed ones and the newest `keep`, of which at least one stays."""
    newest = sorted(steps)[-max(keep, 1) :]
    return [step for step in sorted(steps) if step not in newest and step not in needed]


def _delete(folder: Path) -> None:
    """Rename to a hidden name, so that no process reads half of it, then delete."""
    hidden = folder
    try:
        if not folder.name.startswith("."):
            hidden = folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part"))
        remove_tree(hidden)
    except OSError as error:
        logger.warning("%s could not be deleted (%s); it takes disk space and is harmless otherwise", folder, error)
