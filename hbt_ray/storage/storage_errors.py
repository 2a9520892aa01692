"""Convert the system's errors for a full, read-only or forbidden disk into a `StorageError` that names the path."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hbt_ray.errors import StorageError

_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM}
# For errors of libraries that keep the message but not the number.
_DISK_MESSAGES = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def storage_error(error: BaseException, path: Path | str = "", what: str = "the file") -> StorageError | None:
    """The `StorageError` for an error whose cause is a full, read-only or forbidden disk; otherwise None.

    Libraries wrap the system's error (torch, safetensors, Ray), so the chain of causes and the messages are searched.

    Args:
        path: the path to name if the error names none.
        what: description of the file or folder, for the message.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    # Chains of causes may be circular.
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, StorageError):
            return current
        reason = next((message for message in _DISK_MESSAGES if message in str(current)), "")
        if isinstance(current, OSError) and current.errno is not None:
            # A refused permission counts only for a file near `path`: it may as well be an unreadable input.
            is_output = bool(path) and str(current.filename or "").startswith(str(Path(path).parent))
            if current.errno in _DISK_ERRNOS or (current.errno in _PERMISSION_ERRNOS and is_output):
                reason = os.strerror(current.errno)
                path = path or str(current.filename or "")
        if reason:
            return StorageError(str(path) or "a file", reason, _free_bytes(path), what)
        # `cause` is an attribute of Ray's task errors.
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    return None


@contextmanager
def naming_storage_errors(path: Path | str, what: str = "the file") -> Iterator[None]:
    """Raise a `StorageError` that names `path` for any error in the block that `storage_error` recognises."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageError) or (named := storage_error(error, path, what)) is None:
            raise
        raise named from error


def _free_bytes(path: Path | str) -> int:
    """Free bytes at the nearest existing parent; -1 if unknown."""
    folder = Path(path or ".").absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return -1
