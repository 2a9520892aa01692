"""Files that show which nodes see the same folder. Sent to nodes by value, so nothing of hbt_ray is imported here.

Each node leaves a mark below `FOLDER/.hbt-doctor-TOKEN`, then looks for those of all others.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 3.0
"""Network file systems may show a new file a little later."""


def write_mark(folder: str, token: str, number: int) -> tuple[int, int]:
    """Leave the mark of one node, under a number of its own.

    Returns:
        How many folders above the mark had to be made, and how many bytes are free.

    Raises:
        OSError: it cannot be written there.
    """
    place = _place(folder, token)
    made = sum(not parent.exists() for parent in [Path(folder), *Path(folder).parents])
    place.mkdir(parents=True, exist_ok=True)
    with open(place / str(number), "w", encoding="ascii") as file:
        file.write(token)
        file.flush()
        os.fsync(file.fileno())
    return made, shutil.disk_usage(place).free


def read_marks(folder: str, token: str, numbers: Sequence[int]) -> set[int]:
    """Which marks are there, whole."""
    end, found = time.monotonic() + PATIENCE_SECONDS, set()
    while True:
        found = {number for number in numbers if _is_whole(_place(folder, token) / str(number), token)}
        if len(found) == len(numbers) or time.monotonic() > end:
            return found
        time.sleep(0.2)


def remove_marks(folder: str, token: str, number: int, made: int) -> None:
    """Take the own mark away, and whatever was made for it and is empty now; may be called again."""
    place = _place(folder, token)
    with suppress(OSError):
        (place / str(number)).unlink(missing_ok=True)
        place.rmdir()
    with suppress(OSError):
        for parent in [Path(folder), *Path(folder).parents][:made]:
            parent.rmdir()


def _place(folder: str, token: str) -> Path:
    return Path(folder) / f".hbt-doctor-{token}"


def _is_whole(path: Path, token: str) -> bool:
    try:
        return path.read_text(encoding="ascii") == token
    except (OSError, UnicodeDecodeError):
        return False
