"""JSON and JSON Lines files. Readers skip truncated lines, and SHA-256 checksums reveal changed bits."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hbt_ray.errors import DamagedFile
from hbt_ray.storage.atomic import P, atomic_file, write_text
from hbt_ray.storage.checksums import file_sha256, parse_checked_json, with_checksum, without_checksum
from hbt_ray.storage.object_path import AnyPath, ObjectPath
from hbt_ray.storage.storage_errors import naming_storage_errors

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
"""File in a folder that holds the checksums of the folder's other files."""
_WARNED: set[tuple[AnyPath, int]] = set()
"""(path, number of damaged lines) of each warning that this process has logged."""
_APPENDED: dict[ObjectPath, bytes] = {}
"""Content of the objects that this process appends to."""


def write_json(path: P, value: Any) -> P:
    """Write a JSON file atomically. Returns its path."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def write_checked_json(path: P, record: dict[str, Any]) -> P:
    """Write a JSON object with its checksum atomically. Returns the path."""
    return write_json(path, with_checksum(record))


def read_checked_json(path: AnyPath) -> dict[str, Any]:
    """Read a JSON object that was written by `write_checked_json`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: the file is truncated, changed, or has no checksum.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(str(path), " ".join(str(error).split())[:200]) from None
    return parse_checked_json(content, str(path))


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file of a finished folder into `checksums.json`. Call it last."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUMS}
    write_checked_json(folder / CHECKSUMS, {"files": files})


def checked_file(folder: Path, name: str) -> Path:
    """The path of a file in a folder with `checksums.json`. The whole file is read and compared with its checksum.

    Raises:
        FileNotFoundError: the folder has no checksums, or `checksums.json` does not list the file.
        DamagedFile: the file or the checksums are missing in part or changed.
    """
    path = folder / name
    files = read_checked_json(folder / CHECKSUMS).get("files", {})
    if name not in files:
        raise FileNotFoundError(path)
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        # A missing file that the checksums list is damage, not absence.
        raise DamagedFile(str(path), error.strerror or "it cannot be read") from None
    if sha256 != files[name]:
        raise DamagedFile(str(path), "its checksum does not match its content")
    return path


def append_json_lines(
    path: AnyPath, rows: Iterable[dict[str, Any]], *, durable: bool = True, checked: bool = False
) -> None:
    """Append one line per row, all in one write.

    If the last line of the file is truncated, a line feed ends it first. If the write fails, the file is cut back to
    its previous size. An object store cannot append, so the whole file is written again; only one process may append.

    Args:
        durable: flush to the disk before returning. Rows for an object store wait for the next durable call.
        checked: add a checksum to every row, for `read_json_lines(path, checked=True)`.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    content = encode_json_lines(rows, checked=checked)
    if isinstance(path, ObjectPath):
        _append_to_object(path, content, durable=durable)
        return
    if not content:
        return
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            # Append mode sets no reading position, so it is moved to the last byte.
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            is_truncated = file.read(1) not in (b"", b"\n")
            try:
                remaining = memoryview(b"\n" * is_truncated + content)
                while remaining:  # An unbuffered write may write only a part.
                    remaining = remaining[file.write(remaining) :]
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    # Removes a partly written line, so that a retry does not repeat the rows before it.
                    file.truncate(size)
                raise


def _append_to_object(path: ObjectPath, content: bytes, *, durable: bool) -> None:
    if path not in _APPENDED:
        try:
            _APPENDED[path] = path.read_bytes()
        except FileNotFoundError:
            _APPENDED[path] = b""
    _APPENDED[path] += content
    if durable and _APPENDED[path]:
        path.write_bytes(_APPENDED[path])


def read_json_lines(path: AnyPath, *, checked: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; empty if there is no file. Damaged lines are skipped with one warning.

    Args:
        checked: the rows were written with checksums; a row whose checksum does not match is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows, num_damaged = [], 0
    # Not `splitlines`, which also splits at a carriage return.
    for line in filter(bytes.strip, content.split(b"\n")):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        row = without_checksum(row) if checked else row
        if isinstance(row, dict):
            rows.append(row)
        else:
            num_damaged += 1
    if num_damaged and (path, num_damaged) not in _WARNED:  # Progress displays read the same file repeatedly.
        _WARNED.add((path, num_damaged))
        logger.warning(
            "%s: skipped %d damaged lines (a writer was killed, the disk was full, or a bit changed)", path, num_damaged
        )
    return rows


def write_json_lines(path: AnyPath, rows: Iterable[dict[str, Any]], *, checked: bool = False) -> None:
    """Replace a JSON Lines file atomically. For `checked` see `append_json_lines`."""
    if isinstance(path, ObjectPath):
        _APPENDED[path] = encode_json_lines(rows, checked=checked)
        path.write_bytes(_APPENDED[path])
        return
    with atomic_file(path) as scratch:
        scratch.write_bytes(encode_json_lines(rows, checked=checked))


def encode_json_lines(rows: Iterable[dict[str, Any]], *, checked: bool = False) -> bytes:
    """Encode one line per row in UTF-8. An unpaired surrogate, which UTF-8 cannot encode, becomes a JSON escape."""
    records = map(with_checksum, rows) if checked else rows
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    # `\ud800` is the same escape in Python and in JSON.
    return text.encode("utf-8", errors="backslashreplace")
