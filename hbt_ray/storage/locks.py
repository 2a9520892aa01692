"""File locks: one command at a time uses a run, a search, an index or a result.

Within one host the kernel (`flock`) decides who holds a lock and frees it when the process dies. A network
file system may not support `flock` between hosts, so the owner of a lock also refreshes a heartbeat. Locks in an object
store are in `hbt_ray.storage.lease`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hbt_ray.errors import LockedError
from hbt_ray.storage.lease import HEARTBEAT_SECONDS, LOCK_TIMEOUT_SECONDS, lease
from hbt_ray.storage.object_path import AnyPath, ObjectPath
from hbt_ray.storage.storage_errors import naming_storage_errors

logger = logging.getLogger(__name__)

_HELD: dict[Path, int] = {}
"""Lock file → id of the thread of this process that holds it."""


@contextmanager
def exclusive_lock(path: AnyPath, purpose: str) -> Iterator[None]:
    """Hold the lock of `path` (a run, a search or an index, which need not exist yet) during the block.

    The lock file is `.NAME.lock` beside `path` and names host, process, purpose and time. A thread that holds the lock
    may take it again, so a command and the functions that it calls may lock the same path.

    Args:
        purpose: name of the command that holds the lock, shown to the command that is refused.

    Raises:
        LockedError: another command holds the lock. This function does not wait.
        StorageError: the folder cannot be written.
    """
    if isinstance(path, ObjectPath):
        with lease(path, purpose):
            yield
        return
    path = path.absolute()
    file = path.with_name(f".{path.name}.lock")
    if _HELD.get(file) == threading.get_ident():
        yield
        return
    with naming_storage_errors(file, "the lock"):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(file, wait=False)
    _HELD[file] = threading.get_ident()
    stopped = threading.Event()
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "purpose": purpose, "since": time.time()}
        # After the lock is held: the file may contain a previous owner.
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        # A daemon thread does not keep the process alive.
        threading.Thread(target=_refresh_heartbeat, args=(handle, stopped), name="lock heartbeat", daemon=True).start()
        yield
    finally:
        stopped.set()
        del _HELD[file]
        _release(file, handle)


@contextmanager
def blocking_lock(target: AnyPath) -> Iterator[None]:
    """Wait for the write lock of `target` and hold it during the block, which should be short.

    Without it, two writers of one target would remove each other's new scratch or move each other's folder away.
    """
    if isinstance(target, ObjectPath):
        with lease(target, "writing", wait=True):
            yield
        return
    file = target.with_name(f".{target.name}.swap")
    handle = _acquire(file, wait=True)
    try:
        yield
    finally:
        _release(file, handle)


def _acquire(file: Path, *, wait: bool) -> int:
    """Open and lock a file, which `_release` deletes. Returns its descriptor.

    Raises:
        LockedError: another process holds the lock, and `wait` is false.
    """
    while True:
        handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = _read_owner(handle)
            os.close(handle)
            raise LockedError(str(file), owner) from None
        except OSError as error:  # The file system has no locks: the heartbeat alone decides.
            logger.debug("%s: no kernel locks (%s)", file, error)
        if not wait:
            _check_other_host(file, handle)
        # The previous owner deletes the file on release; a lock on the deleted file would exclude nobody.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        os.close(handle)


def _release(file: Path, handle: int) -> None:
    with suppress(OSError):
        # Deleted before it is unlocked: a process that waits for the lock then sees that its file is gone.
        os.unlink(file)
    with suppress(OSError):
        os.close(handle)


def _read_owner(handle: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _check_other_host(file: Path, handle: int) -> None:
    """Refuse a lock file whose heartbeat another host refreshed recently: `flock` may not reach other hosts.

    Raises:
        LockedError: the owner on the other host is alive.
    """
    owner = _read_owner(handle)
    # The modification time is the heartbeat.
    age_seconds = time.time() - os.fstat(handle).st_mtime
    if owner.get("host", socket.gethostname()) != socket.gethostname() and age_seconds < LOCK_TIMEOUT_SECONDS:
        os.close(handle)
        raise LockedError(str(file), owner)
    if owner:
        logger.warning(
            "%s: taken over from process %s on %s, which no longer runs", file, owner.get("pid"), owner.get("host")
        )


def _refresh_heartbeat(handle: int, stopped: threading.Event) -> None:
    while not stopped.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            # By descriptor: the path may belong to another owner by now.
            os.utime(handle)
