"""A disk that is full, read-only or may not be written becomes one `StorageError` that names the path."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hbt_ray.errors import StorageError

_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM}
_STORAGE_TEXTS = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def storage_error(error: BaseException, path: Path | str = "", what: str = "the file") -> StorageError | None:
    """The `StorageError` behind an error, if the disk is full, read-only or may not be written; otherwise None.

    Libraries wrap the system's error (torch, safetensors, Ray), so causes and messages are searched as well.

    Args:
        path: used if the error itself names no file.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, StorageError):
            return current
        reason = next((text for text in _STORAGE_TEXTS if text in str(current)), "")
        if isinstance(current, OSError) and current.errno is not None:
            # A refused permission is about the disk only where we write: it may as well be an input that is unreadable.
            written = bool(path) and str(current.filename or "").startswith(str(Path(path).parent))
            if current.errno in _STORAGE_ERRNOS or (current.errno in _PERMISSION_ERRNOS and written):
                reason = os.strerror(current.errno)
                path = path or str(current.filename or "")
        if reason:
            return StorageError(str(path) or "a file", reason, _free_bytes(path), what)
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    return None


@contextmanager
def naming_storage_errors(path: Path | str, what: str = "the file") -> Iterator[None]:
    """Turn the system's errors of a full or read-only disk within the block into one `StorageError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageError) or (named := storage_error(error, path, what)) is None:
            raise
        raise named from error


def _free_bytes(path: Path | str) -> int:
    """Free bytes at the nearest existing parent; -1 if unknown."""
    place = Path(path or ".").absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return -1
