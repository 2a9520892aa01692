"""The meter: what a stream delivered and how long it was waited for, as Ray metrics for Prometheus."""

from __future__ import annotations

import time

from ray.util.metrics import Counter

_INTERVAL_SECONDS = 1.0


class StreamMetrics:
    """Counts of one rank, `hbt_stream_rows` and `hbt_stream_wait_seconds`; their rates are what one looks at.

    They are handed to Ray once a second, so that a step pays two additions; Ray passes them on where it has somebody
    to pass them to, and drops them otherwise.
    """

    def __init__(self, rank: int) -> None:
        tags = {"rank": str(rank)}
        self._counters = (
            Counter("hbt_stream_rows", "Rows handed to training", tuple(tags)),
            Counter("hbt_stream_wait_seconds", "Time that training waited for a batch", tuple(tags)),
        )
        for counter in self._counters:
            counter.set_default_tags(tags)
        self._sums = [0.0, 0.0]
        self._handed = time.monotonic()

    def count(self, rows: int, waited_seconds: float) -> None:
        """Of one batch."""
        self._sums[0] += rows
        self._sums[1] += waited_seconds
        if time.monotonic() - self._handed > _INTERVAL_SECONDS:
            self.hand_over()

    def hand_over(self) -> None:
        """Whatever was counted since the last time."""
        for counter, value in zip(self._counters, self._sums, strict=True):
            if value > 0:
                counter.inc(value)
        self._sums = [0.0, 0.0]
        self._handed = time.monotonic()
