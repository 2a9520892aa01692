"""JSON Lines files that survive a truncated line: append, read, and replace."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hbt_ray.storage.atomic import write_text
from hbt_ray.storage.checksums import CHECKSUM_KEY, has_valid_checksum, with_checksum
from hbt_ray.storage.storage_errors import naming_storage_errors

logger = logging.getLogger(__name__)

_WARNED: set[tuple[str, int]] = set()
"""(path, number of damaged lines) of each warning that this process has logged."""


def append_json_lines(
    path: Path, rows: Iterable[dict[str, Any]], *, durable: bool = True, checked: bool = False
) -> None:
    """Append one line per row, all in one write.

    If the last line of the file is truncated, a line feed ends it first. If the write fails, the file is cut back to
    its previous size.

    Args:
        durable: flush to the disk before returning.
        checked: add a checksum to every row, for `read_json_lines(path, checked=True)`.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    content = _encode(rows, checked=checked).encode()
    if not content:
        return
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
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
                    file.truncate(size)
                raise


def read_json_lines(path: Path, *, checked: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; empty if there is no file. Damaged lines are skipped with one warning.

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
        if isinstance(row, dict) and (not checked or has_valid_checksum(row)):
            if checked:
                del row[CHECKSUM_KEY]
            rows.append(row)
        else:
            num_damaged += 1
    if num_damaged and (str(path), num_damaged) not in _WARNED:  # Progress displays read the same file repeatedly.
        _WARNED.add((str(path), num_damaged))
        logger.warning(
            "%s: skipped %d damaged lines (a writer was killed, the disk was full, or a bit changed)", path, num_damaged
        )
    return rows


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]], *, checked: bool = False) -> None:
    """Replace a JSON Lines file atomically. For `checked` see `append_json_lines`."""
    write_text(path, _encode(rows, checked=checked))


def _encode(rows: Iterable[dict[str, Any]], *, checked: bool) -> str:
    records = map(with_checksum, rows) if checked else rows
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
