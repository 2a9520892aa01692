"""`metrics.jsonl` of a run: exactly one row a step, whatever was killed in between.

Only the first rank writes it, as only the first rank makes checkpoints. All rows up to a checkpoint's step are on the
disk before the checkpoint counts, and training that goes on from a checkpoint cuts the file to it first. So a kill may
lose rows beyond the newest checkpoint alone, and those steps are trained and written again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hbt_ray.storage import append_json_lines, read_json_lines, write_json_lines

_SECONDS_BETWEEN_WRITES = 1.0
"""A write on shared storage may take as long as a short step."""


class MetricsFile:
    """The file at `path`, which need not exist yet; of the first rank."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[dict[str, Any]] = []
        self._written_at = time.monotonic()

    def cut(self, step: int) -> None:
        """Keep one row for each step before `step`, from where training goes on."""
        by_step = {row["step"]: row for row in read_json_lines(self._path) if row.get("step", step) < step}
        write_json_lines(self._path, (by_step[at] for at in sorted(by_step)))

    def add(self, row: dict[str, Any]) -> None:
        """The row of the next step."""
        self._waiting.append(row)
        if time.monotonic() - self._written_at > _SECONDS_BETWEEN_WRITES:
            self.flush(durable=False)

    def flush(self, *, durable: bool = True) -> None:
        """Write all rows so far. `durable`: they survive a crash of the machine.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        append_json_lines(self._path, self._waiting, durable=durable)
        self._waiting = []
        self._written_at = time.monotonic()
