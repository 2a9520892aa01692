"""Locks with an owner: one command at a time uses a run, a search, an index or a result."""

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
from hbt_ray.storage.storage_errors import naming_storage_errors

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
LOCK_TIMEOUT_SECONDS = 60.0
"""A lock of another host counts as abandoned after so long without a heartbeat; one of this host at once."""
_HELD: dict[Path, int] = {}
"""Locks that threads of this process hold: lock file → thread."""


@contextmanager
def exclusive_lock(path: Path, purpose: str) -> Iterator[None]:
    """Let one command at a time use `path`, a run, a search or an index, which need not exist yet.

    The lock is `.NAME.lock` beside it and says host, process, purpose and time. On one host the kernel frees it when
    the process dies. Between hosts a heartbeat shows that the owner is alive. A thread that holds the lock may take it
    again, so a command may lock what the functions it calls lock as well.

    Raises:
        LockedError: another command uses it.
        StorageError: the folder cannot be written.
    """
    file = _lock_path(path)
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
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        threading.Thread(target=_beat, args=(handle, stopped), name="lock heartbeat", daemon=True).start()
        yield
    finally:
        stopped.set()
        del _HELD[file]
        _release(file, handle)


@contextmanager
def blocking_lock(target: Path) -> Iterator[None]:
    """Wait until no other process or thread is in such a block for `target`; for blocks that take moments.

    Writers of one target would otherwise remove each other's new scratch, or move each other's folder away.
    """
    lock = target.with_name(f".{target.name}.swap")
    handle = _acquire(lock, wait=True)
    try:
        yield
    finally:
        _release(lock, handle)


def _lock_path(path: Path) -> Path:
    path = path.absolute()
    return path.with_name(f".{path.name}.lock")


def _acquire(file: Path, *, wait: bool) -> int:
    """Open and lock a file, which is deleted by `_release`.

    Raises:
        LockedError: another process holds it, and `wait` is false.
    """
    while True:
        handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = _owner(handle)
            os.close(handle)
            raise LockedError(str(file), owner) from None
        except OSError as error:  # The file system has no locks: the heartbeat alone decides.
            logger.debug("%s: no kernel locks (%s)", file, error)
        if not wait:
            _refuse_other_host(file, handle)
        # Whoever held it before deletes the file, and then this lock is on a file that nobody sees.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        os.close(handle)


def _release(file: Path, handle: int) -> None:
    with suppress(OSError):
        os.unlink(file)
    with suppress(OSError):
        os.close(handle)


def _owner(handle: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _refuse_other_host(file: Path, handle: int) -> None:
    """Kernel locks do not reach other hosts on every network file system."""
    owner = _owner(handle)
    age = time.time() - os.fstat(handle).st_mtime
    if owner.get("host", socket.gethostname()) != socket.gethostname() and age < LOCK_TIMEOUT_SECONDS:
        os.close(handle)
        raise LockedError(str(file), owner)
    if owner:
        logger.warning(
            "%s: taken over from process %s on %s, which no longer runs", file, owner.get("pid"), owner.get("host")
        )


def _beat(handle: int, stopped: threading.Event) -> None:
    while not stopped.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(handle)
