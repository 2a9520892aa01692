"""JSON Lines that outlive a torn line, and records with checksums."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hbt_ray.errors import DamagedFile
from hbt_ray.storage.atomic import write_text
from hbt_ray.storage.storage_errors import naming_storage_errors

logger = logging.getLogger(__name__)

_CHECKSUM = "checksum"
"""The key that `with_checksum` adds."""
_WARNED: set[tuple[str, int]] = set()
"""Files with damaged lines, and how many, that a reader of this process warned of."""


def append_json_lines(
    path: Path, rows: Iterable[dict[str, Any]], *, durable: bool = True, checked: bool = False
) -> None:
    """Append one line a row, in one write. A torn last line of an earlier writer is ended first.

    If the write fails (a full disk), the file is cut back to where it was.

    Args:
        durable: flush to the disk before returning.
        checked: give every row a checksum, for `read_json_lines(path, checked=True)`.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    content = _lines(rows, checked=checked).encode()
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


def read_json_lines(path: Path, *, checked: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; none if there is no such file. Damaged lines are skipped with one warning.

    Args:
        checked: the rows were written with checksums; a row whose checksum does not match is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows, num_damaged = [], 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and (not checked or _matches(row)):
            if checked:
                del row[_CHECKSUM]
            rows.append(row)
        else:
            num_damaged += 1
    if num_damaged and (str(path), num_damaged) not in _WARNED:  # Progress reads the same file again and again.
        _WARNED.add((str(path), num_damaged))
        logger.warning(
            "%s: %d lines are damaged (a writer was killed, the disk was full or a bit changed) and skipped",
            path,
            num_damaged,
        )
    return rows


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]], *, checked: bool = False) -> None:
    """Replace a JSON Lines file, complete or not at all. For `checked` see `append_json_lines`."""
    write_text(path, _lines(rows, checked=checked))


def _lines(rows: Iterable[dict[str, Any]], *, checked: bool) -> str:
    written = map(with_checksum, rows) if checked else rows
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a SHA-256 of its other keys, so that a changed bit is noticed when it is read."""
    content = {key: value for key, value in record.items() if key != _CHECKSUM}
    return {**content, _CHECKSUM: text_sha256(json.dumps(content, sort_keys=True, ensure_ascii=False))}


def _matches(record: dict[str, Any]) -> bool:
    return bool(record.get(_CHECKSUM) == with_checksum(record)[_CHECKSUM])


def read_checked_json(path: Path) -> dict[str, Any]:
    """A JSON object that was written by `with_checksum`, without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is cut short, changed, or has no checksum.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(str(path), " ".join(str(error).split())[:200]) from None
    return parse_checked_json(content, str(path))


def parse_checked_json(content: bytes, location: str) -> dict[str, Any]:
    """The same from the content of a file, which `location` names in errors.

    Raises:
        DamagedFile: see `read_checked_json`.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(location, " ".join(str(error).split())[:200]) from None
    if not isinstance(record, dict) or not _matches(record):
        raise DamagedFile(location, "its checksum does not match its content")
    del record[_CHECKSUM]
    return record
