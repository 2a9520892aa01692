"""Marks: how far each tracker of a run has come, and the name that it knows the run by. RUN/trackers.json

A mark is written after its rows, so a driver that is killed in between repeats the rows of that moment and loses none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from hbt_ray.storage import read_checked_json, with_checksum, write_json
from hbt_ray.train.trackers.tracker import TrackerRow


@dataclass(slots=True)
class TrackerPosition:
    """Of one tracker."""

    id: str = ""
    """The tracker's own for this run; empty before it knows the run."""
    step: int = -1
    """The last one that it has."""
    validated: list[int] = field(default_factory=list)
    """Checkpoints whose measures it has."""

    def lacks(self, row: TrackerRow) -> bool:
        return row.step not in self.validated if row.of_validation else row.step > self.step

    def add(self, rows: Iterable[TrackerRow]) -> None:
        for row in rows:
            if row.of_validation:
                self.validated.append(row.step)
            else:
                self.step = row.step

    def back_to(self, step: int) -> None:
        """What comes after `step` is gone."""
        self.step = min(self.step, step)
        self.validated = [done for done in self.validated if done <= self.step]


class TrackerPositions:
    """The file at `path`, which need not be there yet; shared by threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()

    def of(self, place: str) -> TrackerPosition:
        """Raises: DamagedFile if the file was changed; another run of the tracker is not begun without being asked."""
        return TrackerPosition(**self._read().get(place, {}))

    def keep(self, place: str, mark: TrackerPosition) -> None:
        with self._lock:
            write_json(self._path, with_checksum({**self._read(), place: asdict(mark)}))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            return read_checked_json(self._path)
        except FileNotFoundError:
            return {}
