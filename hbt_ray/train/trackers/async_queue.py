"""The feed: brings rows to one tracker, in a thread, as fast as it takes them.

A server that is slow, or that does not answer, then holds up neither the metrics file nor the other trackers, and the
import of its client (seconds) goes on beside the start of the workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Thread

from hbt_ray.errors import redact
from hbt_ray.train.trackers.resume_state import TrackerPosition, TrackerPositions
from hbt_ray.train.trackers.tracker import Tracker, TrackerRow

logger = logging.getLogger(__name__)

_LARGEST_BATCH = 100


class TrackerQueue:
    """Of one tracker of a run.

    Args:
        place: where the tracker puts the run; another place does not know it yet.
        start: makes the tracker from its mark, and may change that.
        before: rows of earlier sessions that the tracker may lack.
    """

    def __init__(
        self,
        name: str,
        place: str,
        marks: TrackerPositions,
        start: Callable[[TrackerPosition], Tracker],
        before: Callable[[TrackerPosition], Iterable[TrackerRow]],
    ) -> None:
        self._name, self._place, self._marks = name, place, marks
        self._start, self._before = start, before
        self._rows: SimpleQueue[TrackerRow | None] = SimpleQueue()
        self._failed = self._over = False
        self._thread = Thread(target=self._run, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def give(self, row: TrackerRow) -> None:
        if not self._over:
            self._rows.put(row)

    def close(self, *, failed: bool, seconds: float) -> None:
        """Wait for what is under way, but not for ever."""
        self._failed = failed
        self._rows.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._over = True
            logger.warning(
                "%s has not taken the run's last numbers within %g s; the run goes on without it, metrics.jsonl has "
                "them all, and the run's next session will try again",
                self._name,
                seconds,
            )

    def _run(self) -> None:
        try:
            self._bring()
        except Exception as error:  # Any server may fail in any way; the run is worth more than its curves.
            logger.warning(
                "%s no longer takes the run's numbers (%s); metrics.jsonl has them all, and the run's next session "
                "will try again",
                self._name,
                redact(" ".join(str(error).split()))[:300],
            )
        finally:
            self._over = True

    def _bring(self) -> None:
        mark = self._marks.of(self._place)
        tracker = self._start(mark)
        self._marks.keep(self._place, mark)
        rows, more = list(self._before(mark)), True
        while True:
            for first in range(0, len(rows), _LARGEST_BATCH):
                self._log(tracker, mark, rows[first : first + _LARGEST_BATCH])
            if not more:
                break
            rows, more = self._next()
        tracker.close(failed=self._failed)

    def _log(self, tracker: Tracker, mark: TrackerPosition, rows: list[TrackerRow]) -> None:
        if new := [row for row in rows if mark.lacks(row)]:
            tracker.log(new)
            mark.add(new)
            self._marks.keep(self._place, mark)

    def _next(self) -> tuple[list[TrackerRow], bool]:
        """All that waits, at least one, and whether more will come."""
        rows, row = [], self._rows.get()
        while row is not None:
            rows.append(row)
            try:
                row = self._rows.get_nowait()
            except Empty:
                return rows, True
        return rows, False
