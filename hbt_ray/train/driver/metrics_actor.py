"""The journal: carries what rank 0 learned, wherever it runs, to the driver's screen and trackers.

It imports neither torch nor the trainer: it lives in a process of its own, which must start at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class MetricsActor:
    """An actor; rows wait here until the driver takes them."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._stalls: dict[int, tuple[int, str]] = {}

    def stall(self, rank: int, step: int, where: str) -> None:
        """A rank's time ran out in this step, at this place."""
        self._stalls[rank] = step, where

    def last_stall(self) -> tuple[int, dict[int, str]] | None:
        """The step that some rank did not end, though another may have been one further; and every rank's place."""
        if not self._stalls:
            return None
        return min(step for step, _ in self._stalls.values()), {rank: at for rank, (_, at) in self._stalls.items()}

    def write(self, row: dict[str, Any]) -> None:
        self._stalls.clear()  # A restart helped.
        self._rows.append(row)

    def flush(self) -> None:
        """Returns once all earlier writes of the caller are here: an actor serves a caller in order."""

    def take(self) -> list[dict[str, Any]]:
        rows, self._rows = self._rows, []
        return rows


@contextmanager
def metrics_to(watch: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """The handle of a journal whose rows reach `watch` while the block runs."""
    # Where the driver is: another node may be lost, and the rows with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    journal, ended = ray.remote(num_cpus=0, scheduling_strategy=here)(MetricsActor).remote(), threading.Event()

    def drain() -> None:
        for row in ray.get(journal.take.remote()):
            watch(row)

    def follow() -> None:
        while not ended.wait(0.5):
            drain()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield journal
    finally:
        ended.set()
        thread.join()
        drain()
        ray.kill(journal)
