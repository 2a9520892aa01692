"""Files that survive accidents: atomic writes, JSON Lines, checksums, locks, safe deletion, names that become paths.

Everything that hbt_ray writes below a run, a store, a search or an index goes through this module. It promises:

- a file or folder appears complete or not at all, and the one it replaces stays until then;
- a line that was cut short by a kill or a full disk is skipped by readers and does not spoil the next line;
- deletion never follows a symbolic link and removes only what it is given;
- a full or read-only disk becomes one `StorageError` that names the path;
- scratch files of a process that died are removed by the next writer of the same path.

A scratch file is `.NAME.XXXXXXXX.part` beside its target. Its writer holds a kernel lock (`flock`) on it, so a scratch
file that can be locked belongs to a process that died.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hbt_ray.errors import DamagedFile, InputError, LockedError, StorageError

logger = logging.getLogger(__name__)

MAX_NAME_BYTES = 200
"""File systems allow 255 bytes; the rest is for suffixes and scratch names."""
HEARTBEAT_SECONDS = 10.0
LOCK_TIMEOUT_SECONDS = 60.0
"""A lock of another host counts as abandoned after so long without a heartbeat; one of this host at once."""
_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM}
_STORAGE_TEXTS = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def valid_name(name: str, what: str) -> str:
    """Check a name that becomes a file or a folder, such as that of a run, a task or a data set.

    Raises:
        InputError: the name is empty, hidden, `.` or `..`, too long, or holds a slash or a control character.
    """
    size = len(name.encode("utf-8", errors="surrogatepass"))
    if not name or name.startswith((".", "~")) or name != name.strip():
        problem = "is empty, starts with '.' or '~', or has white space at an end"
    elif "/" in name or "\\" in name or not name.isprintable():
        problem = "holds a slash, a backslash or a character that cannot be printed"
    elif size > MAX_NAME_BYTES:
        problem = f"has {size} bytes in UTF-8, and the limit is {MAX_NAME_BYTES}"
    else:
        return name
    shown = name if len(name) <= 40 else name[:40] + "…"
    raise InputError(
        f"{what} {shown!r} cannot name a file or folder: it {problem}. Choose another name, such as 'faq-hybrid'",
        code="INVALID_NAME",
    )


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


# --- Atomic files and folders -----------------------------------------------------------------------------------------


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a scratch path to write to; it replaces `path` if the block ends well and vanishes otherwise.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as scratch:
            yield scratch
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
            for parent, _, files in os.walk(scratch):
                for name in (*files, "."):
                    sync(Path(parent) / name)
            with _one_at_a_time(folder):
                _swap(scratch, folder)


def _swap(scratch: Path, folder: Path) -> None:
    """No rename replaces a folder that holds something, so the old one is moved aside first."""
    if os.path.lexists(folder):
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        os.rename(folder, old)
        os.rename(scratch, folder)
        remove_tree(old)
    else:
        os.rename(scratch, folder)
    sync(folder.parent)


@contextmanager
def _scratch(target: Path, flags: int) -> Iterator[Path]:
    """A locked scratch file or folder beside `target`, removed at the end if it is still there."""
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with _one_at_a_time(target):
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


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Keep writers of one target from removing each other's new scratch, or from moving each other's folder away."""
    lock = target.with_name(f".{target.name}.swap")
    handle = _acquire(lock, wait=True)
    try:
        yield
    finally:
        _release(lock, handle)


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


# --- JSON Lines -------------------------------------------------------------------------------------------------------


def append_json_lines(path: Path, rows: Iterable[dict[str, Any]], *, durable: bool = True) -> None:
    """Append one line a row, in one write. A torn last line of an earlier writer is ended first.

    If the write fails (a full disk), the file is cut back to where it was.

    Args:
        durable: flush to the disk before returning.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if not content:
        return
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")
            try:
                remaining = memoryview(b"\n" * torn + content)
                while remaining:  # An unbuffered write may take a part.
                    remaining = remaining[file.write(remaining) :]
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; none if there is no such file. Torn lines are skipped with one warning."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows, torn = [], 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    if torn:
        logger.warning("%s: %d lines are damaged (a writer was killed or the disk was full) and skipped", path, torn)
    return rows


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSON Lines file, complete or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# --- Checksums --------------------------------------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


_CHECKSUM = "checksum"


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a SHA-256 of its other keys, so that a changed bit is noticed when it is read."""
    content = {key: value for key, value in record.items() if key != _CHECKSUM}
    return {**content, _CHECKSUM: text_sha256(json.dumps(content, sort_keys=True, ensure_ascii=False))}


def read_checked_json(path: Path) -> dict[str, Any]:
    """A JSON object that was written by `with_checksum`, without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is cut short, changed, or has no checksum.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(str(path), " ".join(str(error).split())[:200]) from None
    if not isinstance(record, dict) or record.get(_CHECKSUM) != with_checksum(record)[_CHECKSUM]:
        raise DamagedFile(str(path), "its checksum does not match its content")
    del record[_CHECKSUM]
    return record


# --- Locks ------------------------------------------------------------------------------------------------------------


@contextmanager
def exclusive(path: Path, purpose: str) -> Iterator[None]:
    """Let one command at a time use `path`, a run, a search or an index, which need not exist yet.

    The lock is `.NAME.lock` beside it and says host, process, purpose and time. On one host the kernel frees it when
    the process dies. Between hosts a heartbeat shows that the owner is alive.

    Raises:
        LockedError: another command uses it.
        StorageError: the folder cannot be written.
    """
    file = _lock_path(path)
    with naming_storage_errors(file, "the lock"):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(file, wait=False)
    stopped = threading.Event()
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "purpose": purpose, "since": time.time()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        threading.Thread(target=_beat, args=(handle, stopped), name="lock heartbeat", daemon=True).start()
        yield
    finally:
        stopped.set()
        _release(file, handle)


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
