"""An actor that carries metrics from rank 0, wherever it runs, to the driver's screen and trackers.

This module imports neither torch nor the trainer: the actor's process must start at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_POLL_SECONDS = 0.5


class MetricsActor:
    """Keeps rows until the driver takes them. Runs as a Ray actor."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._stalls: dict[int, tuple[int, str]] = {}

    def add(self, row: dict[str, Any]) -> None:
        self._stalls.clear()  # A restart helped.
        self._rows.append(row)

    def flush(self) -> None:
        """Return once all earlier `add` of the caller are done: an actor serves a caller in order."""

    def take(self) -> list[dict[str, Any]]:
        """Return the rows that came since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def add_stall(self, rank: int, step: int, place: str) -> None:
        """Note that a rank's watchdog expired in this step, at this place of the program."""
        self._stalls[rank] = step, place

    def last_stall(self) -> tuple[int, dict[int, str]] | None:
        """The step that some rank did not finish, and rank → place; None if there was progress since.

        Ranks may be one step apart; the step is the earliest.
        """
        if not self._stalls:
            return None
        step = min(step for step, _ in self._stalls.values())
        return step, {rank: place for rank, (_, place) in self._stalls.items()}


@contextmanager
def metrics_actor(on_row: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """The handle of a `MetricsActor` whose rows are passed to `on_row`, in a thread, while the block runs."""
    # On the driver's node: another node may be lost, and the rows with it.
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=this_node)(MetricsActor).remote()
    ended = threading.Event()

    def drain() -> None:
        for row in ray.get(actor.take.remote()):
            on_row(row)

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            drain()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join()
        drain()  # Rows that came after the thread's last poll.
        ray.kill(actor)
