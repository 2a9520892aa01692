"""Atomic files and folders on this machine, and deletion that does not follow symbolic links.

A writer writes to a scratch file `.NAME.XXXXXXXX.part` beside the target and renames it at the end. It holds a kernel
lock (`flock`) on the scratch file. So a scratch file that can be locked belongs to a process that died, and the next
writer of the same target removes it.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hbt_ray.storage.locks import blocking_lock
from hbt_ray.storage.object_path import AnyPath, ObjectPath
from hbt_ray.storage.published_folder import node_folder, publish_folder
from hbt_ray.storage.storage_errors import naming_storage_errors

P = TypeVar("P", bound=AnyPath)


@contextmanager
def atomic_file(path: AnyPath) -> Iterator[Path]:
    """Yield a scratch path to write to. It replaces `path` if the block succeeds and is deleted otherwise.

    For an object store the scratch is on this machine, and is uploaded at the end.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    if isinstance(path, ObjectPath):
        with temporary_folder("upload", node_folder()) as folder:
            yield folder / path.name
            path.upload(folder / path.name)
        return
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as scratch:
            mode = stat.S_IMODE(scratch.stat().st_mode)
            yield scratch
            os.chmod(scratch, mode)  # Some libraries replace the scratch with a file that only its owner may read.
            # Before the rename: after a crash the name must not lead to an empty file.
            fsync(scratch)
            os.replace(scratch, path)


def write_text(path: P, text: str) -> P:
    """Write a UTF-8 file atomically. Returns its path."""
    if isinstance(path, ObjectPath):
        path.write_bytes(text.encode())
        return path
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")
    return path


@contextmanager
def atomic_folder(folder: AnyPath) -> Iterator[Path]:
    """Yield an empty scratch folder. It replaces `folder` if the block succeeds and is deleted otherwise.

    For an object store the scratch is on this machine, and is published at the end. On a file system a symbolic
    link at `folder` is replaced, not followed.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    if isinstance(folder, ObjectPath):
        with temporary_folder("upload", node_folder()) as scratch:
            yield scratch
            publish_folder(scratch, folder)
        return
    with naming_storage_errors(folder, "the folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(folder, os.O_RDONLY | os.O_DIRECTORY) as scratch:
            yield scratch
            # The folder's mode follows the umask; without the bits for execution it fits files.
            mode = stat.S_IMODE(scratch.stat().st_mode) & 0o666
            for parent, _, files in os.walk(scratch):
                # `.` flushes the folder itself, which holds the names of its files.
                for name in (*files, "."):
                    path = Path(parent) / name
                    # A file with further hard links belongs to others as well, so its mode stays.
                    if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                        os.chmod(path, mode)  # safetensors creates files that only their owner may read.
                    fsync(path)
            with blocking_lock(folder):
                _swap(scratch, folder)


@contextmanager
def temporary_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that is deleted after the block. If the process is killed, the next call deletes it.

    Args:
        purpose: part of the folder's name.
        parent: folder to create it in; by default the system's folder for temporary files.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    parent = parent or Path(tempfile.gettempdir())
    # With the user id, because a folder of another user could be neither locked nor removed.
    target = parent / f"hbt-{purpose}-{os.getuid()}"
    with naming_storage_errors(target, "a temporary folder"):
        parent.mkdir(parents=True, exist_ok=True)
        with _scratch(target, os.O_RDONLY | os.O_DIRECTORY) as folder:
            yield folder


def _swap(scratch: Path, folder: Path) -> None:
    """Move `scratch` to `folder`, in one step if the file system supports it. The old folder is deleted."""
    if not os.path.lexists(folder):
        os.rename(scratch, folder)
    elif _exchange(scratch, folder):
        remove_tree(scratch)  # After the exchange this is the old folder.
    else:
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        os.rename(folder, old)  # A rename cannot replace a folder that is not empty.
        os.rename(scratch, folder)
        remove_tree(old)
    # The rename is durable once the parent folder is flushed.
    fsync(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step (Linux's `renameat2`). Returns False if the file system does not support it."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    at_fdcwd, rename_exchange = -100, 2  # From fcntl.h and linux/fs.h.
    return bool(exchange(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange) == 0)


@contextmanager
def _scratch(target: Path, flags: int) -> Iterator[Path]:
    """A locked scratch file or folder beside `target`, deleted after the block if it still exists.

    Args:
        flags: flags for `os.open`; with `O_DIRECTORY` the scratch is a folder.
    """
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with blocking_lock(target):
        # Under the lock: between creation and `flock` another writer would take the scratch for abandoned.
        _remove_abandoned(target)
        if flags & os.O_DIRECTORY:
            scratch.mkdir()
        handle = os.open(scratch, flags, 0o666)
        with suppress(OSError):  # Without locks (some network file systems) no scratch counts as abandoned.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield scratch
    finally:
        with suppress(OSError):
            remove_tree(scratch)
        os.close(handle)


def _remove_abandoned(target: Path) -> None:
    """Delete scratch files of `target` whose writers died."""
    for scratch in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with suppress(OSError):
            # O_NOFOLLOW: a link planted under this name must not lead elsewhere.
            handle = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(scratch)
            finally:
                os.close(handle)


def fsync(path: Path) -> None:
    """Flush a file or folder to the disk, so that it survives a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: AnyPath) -> None:
    """Delete a file, a symbolic link (not its target), or a folder with its content. A missing path is ignored.

    Raises:
        OSError: something cannot be deleted.
    """
    if isinstance(path, ObjectPath):
        path.remove_tree()
        return
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)  # Does not follow links in the folder (`shutil.rmtree.avoids_symlink_attacks`).
    else:
        os.unlink(path)


def is_unused(folder: AnyPath) -> bool:
    """Whether `folder` does not exist, or contains nothing but scratch files and locks of writers that died."""
    if isinstance(folder, ObjectPath):
        return all(name.startswith(".") for name in folder.names())
    if not folder.is_dir():
        return not os.path.lexists(folder)
    return all(name.startswith(".") and name.endswith((".part", ".swap", ".lock")) for name in os.listdir(folder))
