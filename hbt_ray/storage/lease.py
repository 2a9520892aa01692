"""Locks in an object store: an object that names the owner, which the owner writes again every few seconds.

Object stores have no lock, and their interfaces differ in conditional writes. So a new owner writes its name, waits
until the write of any other that saw no owner either has arrived, and reads back who has won: the last one. An owner
that no longer writes is taken over from after `LOCK_TIMEOUT_SECONDS`, or at once if its process has ended on this host.
An owner that finds another name in its place, for instance after its machine was suspended, ends its command.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hbt_ray.errors import LockedError, StorageError, StoreError
from hbt_ray.storage.object_path import ObjectPath

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
"""Interval of the owner's writes, well below `LOCK_TIMEOUT_SECONDS`, so that single delays do no harm."""
LOCK_TIMEOUT_SECONDS = 60.0
"""Time without a write of its owner after which a lock counts as abandoned."""
SETTLE_SECONDS = 2.0
"""Longest time between another process's look at the lock and the arrival of its write."""
_POLL_SECONDS = 1.0
_HELD: dict[ObjectPath, int] = {}
"""Lock → id of the thread of this process that holds it."""


@contextmanager
def lease(path: ObjectPath, purpose: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `path` during the block. A thread that holds it may take it again.

    Args:
        wait: wait for the other owner instead of raising an error.

    Raises:
        LockedError: another command holds the lock.
        StorageError: the object store cannot be written.
    """
    file = path.with_name(f".{path.name}.lock")
    if _HELD.get(file) == threading.get_ident():
        yield
        return
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "purpose": purpose, "since": time.time(),
             "token": secrets.token_hex(8)}  # fmt: skip
    while True:
        try:
            _acquire(file, owner)
            break
        except LockedError:
            if not wait:
                raise
        time.sleep(_POLL_SECONDS)
    _HELD[file] = threading.get_ident()
    stopped = threading.Event()
    # A daemon thread does not keep the process alive.
    heartbeat = threading.Thread(target=_keep, args=(file, owner, stopped), name="lock heartbeat", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stopped.set()
        heartbeat.join(HEARTBEAT_SECONDS)  # A write on its way would bring the lock back.
        del _HELD[file]
        with suppress(StorageError, StoreError):
            if _read_owner(file).get("token") == owner["token"]:
                file.unlink(missing_ok=True)


def _acquire(file: ObjectPath, owner: dict[str, Any]) -> None:
    other = _read_owner(file)
    if other and _is_alive(file, other):
        raise LockedError(str(file), other)
    if other:
        logger.warning(
            "%s: taken over from process %s on %s, which no longer runs", file, other.get("pid"), other.get("host")
        )
    file.write_bytes(json.dumps(owner).encode())
    time.sleep(SETTLE_SECONDS)
    winner = _read_owner(file)
    if winner.get("token") != owner["token"]:
        raise LockedError(str(file), winner)


def _is_alive(file: ObjectPath, owner: dict[str, Any]) -> bool:
    if owner.get("host") == socket.gethostname() and not _process_runs(owner.get("pid", 0)):
        return False
    # The age by the clock of the object store: those of two machines may differ.
    probe = file.with_name(f"{file.name}-{secrets.token_hex(4)}")
    probe.write_bytes(b"")
    try:
        written, now = file.modified(), probe.modified()
    finally:
        probe.unlink(missing_ok=True)
    return written is not None and now is not None and now - written < LOCK_TIMEOUT_SECONDS


def _process_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # It runs, as another user.
        return True
    return True


def _read_owner(file: ObjectPath) -> dict[str, Any]:
    """The owner in a lock; empty if there is none."""
    try:
        owner = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _keep(file: ObjectPath, owner: dict[str, Any], stopped: threading.Event) -> None:
    while not stopped.wait(HEARTBEAT_SECONDS):
        with suppress(StorageError, StoreError):  # The next write may succeed.
            other = _read_owner(file)
            if other and other.get("token") != owner["token"]:
                logger.error(
                    "%s: taken over by process %s on %s, since this one did not write it for %g s; this command ends",
                    file, other.get("pid"), other.get("host"), LOCK_TIMEOUT_SECONDS,
                )  # fmt: skip
                os.kill(os.getpid(), signal.SIGTERM)
                return
            file.write_bytes(json.dumps(owner).encode())
