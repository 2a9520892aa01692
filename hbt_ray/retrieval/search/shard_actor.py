"""Shards in a process of their own: a Ray actor that is made again when it dies, and asked again what it owes.

One process may hold several shards: a process costs about half a second of CPU and 200 MB before it holds anything,
which eleven small languages on two cores would feel.

Ray's own restarts would do this silently; a search that keeps losing processes must say so, and end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from hbt_ray.errors import HbtError, ResourceError
from hbt_ray.retrieval.search.exact_scores import Floats, Integers
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.shard import VectorShard

logger = logging.getLogger(__name__)


class ShardGroup:
    """What runs in the process: order numbers and vectors of one shard after the other."""

    def __init__(self, threads: int, index: IndexConfig, *contents: Any) -> None:
        self._shards = [
            VectorShard(orders, vectors, threads, index)
            for orders, vectors in zip(contents[::2], contents[1::2], strict=True)
        ]

    def ask(self, members: Sequence[int], method: str, queries: Floats, other: Any) -> list[Integers]:
        """One answer a member, of `VectorShard.search` or `VectorShard.preceding`."""
        return [getattr(self._shards[member], method)(queries, other) for member in members]


@dataclass(frozen=True)
class ShardRequest:
    """A question that an actor was asked; `life` says in which of its lives."""

    arguments: tuple[Any, ...]
    life: int
    answer: Any
    """The reference to the answer."""


class ShardActor:
    """The driver's side; `contents` are references to the order numbers and vectors of `ShardGroup`."""

    def __init__(
        self,
        name: str,
        contents: Sequence[Any],
        index: IndexConfig,
        num_cpus: float,
        max_rebuilds: int,
        timeout: float,
    ) -> None:
        self.name, self._index = name, index
        self._contents, self._num_cpus, self._max_rebuilds, self._timeout = contents, num_cpus, max_rebuilds, timeout
        self._life = 0
        self._actor: Any = None
        self._start()

    def ask(self, *arguments: Any) -> ShardRequest:
        """Send the arguments of `ShardGroup.ask`, some of them references to objects, and do not wait."""
        return ShardRequest(arguments, self._life, self._actor.ask.remote(*arguments))

    def answer(self, request: ShardRequest) -> list[Integers]:
        """Wait for the answers; where the process died over them, start it again and repeat the question.

        Raises:
            HbtError: the process died more than `max_rebuilds` times.
            ResourceError: the cluster has no room for it any more.
        """
        while True:
            try:
                answers: list[Integers] = ray.get(request.answer)
            except (RayActorError, ObjectLostError) as error:
                # Other questions of the lost life fail as well, after the process was started again.
                if request.life == self._life:
                    self._rebuild(error)
                request = self.ask(*request.arguments)
            else:
                return answers

    def wait_until_ready(self) -> None:
        """Raises ResourceError where the process does not start in time."""
        request = self.ask((), "", None, None)
        done, _ = ray.wait([request.answer], timeout=self._timeout)
        if not done:
            free = ray.available_resources().get("CPU", 0.0)
            raise ResourceError(
                f"{self.name} did not start within {self._timeout:g} s: it asks for {self._num_cpus:g} CPUs, "
                f"{free:g} of the cluster's {ray.cluster_resources().get('CPU', 0.0):g} are free. Free some, or lower "
                "search.cpus_per_actor (0 reserves none)."
            )
        self.answer(request)

    def stop(self) -> None:
        """End the process."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _start(self) -> None:
        threads = max(1, int(self._num_cpus))
        remote = ray.remote(ShardGroup).options(
            num_cpus=self._num_cpus, num_gpus=int(self._index.gpu) or None, max_restarts=0
        )
        self._actor = remote.remote(threads, self._index, *self._contents)

    def _rebuild(self, cause: Exception) -> None:
        if self._life == self._max_rebuilds:
            raise HbtError(
                f"{self.name} died (was started again {self._life} times): {str(cause).splitlines()[0]} If it ran "
                "out of memory, lower search.max_rows or search.chunk_size; else see the logs of Ray."
            ) from cause
        self._life += 1
        logger.warning("%s died (%s): starting it again, %d of %d times", self.name, type(cause).__name__,
                       self._life, self._max_rebuilds)  # fmt: skip
        self._start()
        self.wait_until_ready()
