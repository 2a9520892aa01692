"""Files and folders that appear complete or not at all, and deletion that follows no link.

A scratch file is `.NAME.XXXXXXXX.part` beside its target. Its writer holds a kernel lock (`flock`) on it, so a scratch
file that can be locked belongs to a process that died.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hbt_ray.storage.locks import blocking_lock
from hbt_ray.storage.storage_errors import naming_storage_errors


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a scratch path to write to; it replaces `path` if the block ends well and vanishes otherwise.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as scratch:
            mode = stat.S_IMODE(scratch.stat().st_mode)
            yield scratch
            os.chmod(scratch, mode)  # Some libraries write another file in its place, which its owner alone may read.
            sync(scratch)
            os.replace(scratch, path)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file, complete or not at all."""
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file, complete or not at all."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty scratch folder; it replaces `folder` if the block ends well and vanishes otherwise.

    A symbolic link at `folder` is replaced, never followed.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with naming_storage_errors(folder, "the folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(folder, os.O_RDONLY | os.O_DIRECTORY) as scratch:
            yield scratch
            mode = stat.S_IMODE(scratch.stat().st_mode) & 0o666
            for parent, _, files in os.walk(scratch):
                for name in (*files, "."):
                    path = Path(parent) / name
                    if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                        os.chmod(path, mode)  # safetensors makes files that their owner alone may read.
                    sync(path)
            with blocking_lock(folder):
                _swap(scratch, folder)


@contextmanager
def temporary_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that vanishes with the block. One that a killed process left is removed by the next call.

    Args:
        purpose: a part of its name.
        parent: by default the system's folder for temporary files.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    parent = parent or Path(tempfile.gettempdir())
    target = parent / f"hbt-{purpose}-{os.getuid()}"  # Another user's could be neither locked nor removed.
    with naming_storage_errors(target, "a temporary folder"):
        parent.mkdir(parents=True, exist_ok=True)
        with _scratch(target, os.O_RDONLY | os.O_DIRECTORY) as folder:
            yield folder


def _swap(scratch: Path, folder: Path) -> None:
    """Put `scratch` in the place of `folder`, in one step where the file system can."""
    if not os.path.lexists(folder):
        os.rename(scratch, folder)
    elif _exchange(scratch, folder):
        remove_tree(scratch)  # The old one, under the scratch's name.
    else:
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        os.rename(folder, old)  # No rename replaces a folder that holds something.
        os.rename(scratch, folder)
        remove_tree(old)
    sync(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step. Python has no such call; Linux has, and some network file systems refuse it."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, flag = -100, 2  # AT_FDCWD and RENAME_EXCHANGE.
    return bool(exchange(here, os.fsencode(first), here, os.fsencode(second), flag) == 0)


@contextmanager
def _scratch(target: Path, flags: int) -> Iterator[Path]:
    """A locked scratch file or folder beside `target`, removed at the end if it is still there."""
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with blocking_lock(target):
        _remove_abandoned(target)
        if flags & os.O_DIRECTORY:
            scratch.mkdir()
        handle = os.open(scratch, flags, 0o666)
        with suppress(OSError):  # Some network file systems have no locks; then nothing is ever taken for abandoned.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield scratch
    finally:
        with suppress(OSError):
            remove_tree(scratch)
        os.close(handle)


def _remove_abandoned(target: Path) -> None:
    """Remove scratch files of `target` whose writers died."""
    for scratch in target.parent.glob(f".{_escaped(target.name)}.*.part"):
        with suppress(OSError):
            handle = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(scratch)
            finally:
                os.close(handle)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that it survives a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: Path) -> None:
    """Delete a file or a folder with its content. A symbolic link is deleted itself, its target stays.

    Raises:
        OSError: something cannot be deleted.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)  # Follows no link within (`shutil.rmtree.avoids_symlink_attacks`).
    else:
        os.unlink(path)


def is_unused(folder: Path) -> bool:
    """Whether nothing is at `folder`, or a folder with nothing but scratch and locks of writers that died."""
    if not folder.is_dir():
        return not os.path.lexists(folder)
    return all(name.startswith(".") and name.endswith((".part", ".swap", ".lock")) for name in os.listdir(folder))
