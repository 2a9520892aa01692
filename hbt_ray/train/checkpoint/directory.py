"""The shelf: the checkpoints of a run, on a file system that all its nodes see.

SHELF/step-00000400/            complete: it was renamed to this name when all of it was on the disk
SHELF/.step-00000500.….part     being written, or left by a writer that died; never read, and cleared away
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from hbt_ray.errors import CheckpointError
from hbt_ray.storage import atomic_folder, remove_tree
from hbt_ray.train.checkpoint import format as checkpoint
from hbt_ray.train.checkpoint.format import State

logger = logging.getLogger(__name__)

_PREFIX = "step-"


class CheckpointDirectory:
    """The checkpoints below a folder, which need not be there yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, step: int) -> Path:
        """Where the checkpoint of so many steps is, or would be."""
        return self.root / f"{_PREFIX}{step:08d}"

    def steps(self) -> list[int]:
        """Those that are there, ascending."""
        names = (re.fullmatch(checkpoint.STEP_NAME, path.name) for path in self.root.glob(f"{_PREFIX}*"))
        return sorted(int(name[1]) for name in names if name)

    @contextmanager
    def publishing(self, step: int) -> Iterator[Path]:
        """A folder to write into, which becomes the checkpoint when the block ends well, and vanishes otherwise.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        with atomic_folder(self.path(step)) as folder:
            yield folder

    def newest(self) -> tuple[Path, State] | None:
        """The newest checkpoint that is whole, or None where none was made; others are passed over, with a warning.

        Raises:
            CheckpointError: there are some, but none is whole.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                found = self.path(step), checkpoint.inspect(self.path(step))
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                logger.warning("%s; going on from step %d instead", problem, step)
            return found
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.root} is whole, so the run cannot go on: {'; '.join(problems)}. "
                "Restore one from a copy, or start a run of another name"
            )
        return None

    def prune(self, keep: int, needed: Collection[int] = ()) -> None:
        """Delete what is neither among the newest `keep` nor needed for something else."""
        for step in to_delete(self.steps(), needed, keep):
            _delete(self.path(step))

    def clear(self) -> None:
        """Delete what dead writers left. To be called before this run's writer starts, and never beside it."""
        for path in self.root.glob(f".{_PREFIX}*"):
            _delete(path)


def to_delete(steps: Collection[int], needed: Collection[int], keep: int) -> list[int]:
    """Never what is needed, never the newest `keep`, and never the only one."""
    newest = sorted(steps)[-max(keep, 1) :]
    return [step for step in sorted(steps) if step not in newest and step not in needed]


def _delete(folder: Path) -> None:
    """First out of sight, so that nobody reads half of it."""
    hidden = folder
    try:
        if not folder.name.startswith("."):
            hidden = folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part"))
        remove_tree(hidden)
    except OSError as error:
        logger.warning("%s could not be deleted (%s); it takes room, and does no harm otherwise", folder, error)
