"""The record: `validation.jsonl` of a run, one line a validation, written by whichever process made it.

A line is one write at the file's end, synchronised before the validation counts as done, so a result that a decision
rests on survives every process. A reader passes over a line that was cut short.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""`step`, `pool` (its fingerprint), the measures and `seconds`; or `step`, `pool` and `error`."""


class Record:
    """The file at `path`, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size, self._told = 0, frozenset[int]()

    def rows(self) -> dict[int, Row]:
        """Step → its last line, failures among them, in the order of steps."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        rows = {row["step"]: row for row in map(_parsed, text.splitlines()) if row}
        return {step: rows[step] for step in sorted(rows)}

    def results(self) -> dict[int, Row]:
        """The same without failures."""
        return {step: row for step, row in self.rows().items() if "error" not in row}

    def fresh(self) -> dict[int, Row]:
        """Results that came since the last call; the file is read only where it has changed."""
        if not self._path.exists() or (size := self._path.stat().st_size) == self._size:
            return {}
        rows = self.results()
        new = {step: row for step, row in rows.items() if step not in self._told}
        self._size, self._told = size, frozenset(rows)
        return new

    def append(self, row: Row) -> None:
        with self._path.open("a+b") as file:
            # Whoever wrote last may have been killed within a line.
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def cut(self, step: int) -> dict[int, Row]:
        """Forget failures and what came after `step`, from where training goes on; returns what is left."""
        left = {at: row for at, row in self.results().items() if at <= step}
        if left != self.rows():
            scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            scratch.write_text("".join(json.dumps(row) + "\n" for row in left.values()), encoding="utf-8")
            os.replace(scratch, self._path)
        return left


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
