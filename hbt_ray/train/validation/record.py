"""The record: `validation.jsonl` of a run, one line a validation, written by whichever process made it.

A line is one write at the file's end, synchronised before the validation counts as done, so a result that a decision
rests on survives every process. Each row has a checksum, as one changed digit would choose another checkpoint; readers
skip a row that is damaged, and its checkpoint is validated again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hbt_ray.storage import append_json_lines, read_json_lines, write_json_lines

Row = dict[str, Any]
"""`step`, `pool` (its fingerprint), the measures and `seconds`; or `step`, `pool` and `error`."""


class ValidationRecord:
    """The file at `path`, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size, self._told = 0, frozenset[int]()

    def rows(self) -> dict[int, Row]:
        """Step → its last line, failures among them, in the order of steps."""
        rows = {row["step"]: row for row in read_json_lines(self._path, checked=True) if "step" in row}
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
        append_json_lines(self._path, [row], checked=True)

    def cut(self, step: int) -> dict[int, Row]:
        """Forget failures and what came after `step`, from where training goes on; returns what is left."""
        left = {at: row for at, row in self.results().items() if at <= step}
        if left != self.rows():
            write_json_lines(self._path, left.values(), checked=True)
        return left
