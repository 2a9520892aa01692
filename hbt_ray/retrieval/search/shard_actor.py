"""Shards in a Ray actor. If it dies, it is restarted and its unanswered calls are repeated.

One process may hold several shards, since an empty one costs about half a second of CPU and 200 MB, which is much for
eleven small languages on two cores. Ray's own restarts are not used: they are silent, and a search whose processes keep
dying must report it and end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import ObjectLostError, RayActorError

from hbt_ray.errors import HbtError, ResourceError
from hbt_ray.ray_errors import MAX_RESTARTS
from hbt_ray.retrieval.search.exact_scores import Floats, Integers
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.shard import VectorShard

logger = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 120.0
"""Longest wait of a process for free CPUs of the cluster; then the search fails."""


class ShardGroup:
    """The actor's process with several `VectorShard`s. `contents` holds order numbers, vectors, order numbers, …"""

    def __init__(self, threads: int, index: IndexConfig, *contents: Any) -> None:
        self._shards = [
            VectorShard(orders, vectors, threads, index)
            for orders, vectors in zip(contents[::2], contents[1::2], strict=True)
        ]

    def call(self, method: str, queries: Floats, argument: Any) -> list[Integers]:
        """Results of `VectorShard.search` or `VectorShard.count_preceding`, one per shard; empty without a method."""
        return [getattr(shard, method)(queries, argument) for shard in self._shards] if method else []


class ShardRequest(NamedTuple):
    """A call that was sent to an actor."""

    arguments: tuple[Any, ...]
    """Arguments of `ShardGroup.call`."""
    num_restarts: int
    """Number of restarts of the actor before the call."""
    reference: Any
    """Reference to the results."""


class ShardActor:
    """The driver's handle of a `ShardGroup`; `contents` are references to its order numbers and vectors."""

    def __init__(
        self, name: str, languages: tuple[str, ...], contents: Sequence[Any], index: IndexConfig, num_cpus: float
    ) -> None:
        """`languages` holds the language of each shard, in order."""
        self.name, self.languages = name, languages
        self._contents, self._index, self._num_cpus = contents, index, num_cpus
        self._num_restarts = 0
        self._start()

    def call(self, *arguments: Any) -> ShardRequest:
        """Send a call of `ShardGroup.call` without waiting. Its arguments may be references to objects."""
        return ShardRequest(arguments, self._num_restarts, self._actor.call.remote(*arguments))

    def results(self, request: ShardRequest) -> list[Integers]:
        """Wait for the results; if the process died, restart it and repeat the call.

        Raises:
            HbtError: the process died more than `MAX_RESTARTS` times.
            ResourceError: the cluster has no free CPUs for a restart.
        """
        while True:
            try:
                results: list[Integers] = ray.get(request.reference)
            except (RayActorError, ObjectLostError) as error:
                # All pending calls to a lost process fail; only the first of them restarts it.
                if request.num_restarts == self._num_restarts:
                    self._restart(error)
                request = self.call(*request.arguments)
            else:
                return results

    def wait_until_ready(self) -> None:
        """Wait until the process has started. Raises ResourceError if it does not start in time."""
        request = self.call("", None, None)  # a call that does nothing, answered once the process runs
        done, _ = ray.wait([request.reference], timeout=START_TIMEOUT_SECONDS)
        if not done:
            free = ray.available_resources().get("CPU", 0.0)
            raise ResourceError(
                f"{self.name} did not start within {START_TIMEOUT_SECONDS:g} s: it asks for {self._num_cpus:g} CPUs, "
                f"{free:g} of the cluster's {ray.cluster_resources().get('CPU', 0.0):g} are free. Free some, or lower "
                "search.cpus_per_actor (0 reserves none).",
                code="RESOURCES",
            )
        self.results(request)

    def stop(self) -> None:
        """End the process."""
        ray.kill(self._actor)

    def _start(self) -> None:
        gpus = int(self._index.gpu) or None
        remote = ray.remote(ShardGroup).options(num_cpus=self._num_cpus, num_gpus=gpus, max_restarts=0)
        # Contents are separate arguments, since Ray resolves references only at the top level.
        self._actor: Any = remote.remote(max(1, int(self._num_cpus)), self._index, *self._contents)

    def _restart(self, cause: Exception) -> None:
        if self._num_restarts == MAX_RESTARTS:
            raise HbtError(
                f"{self.name} died (was restarted {self._num_restarts} times): {str(cause).splitlines()[0]} If it ran "
                "out of memory, lower search.max_rows or search.chunk_size; else see the logs of Ray.",
                code="WORKER_DIED",
            ) from cause
        self._num_restarts += 1
        logger.warning("%s died (%s): starting it again, %d of %d times", self.name, type(cause).__name__,
                       self._num_restarts, MAX_RESTARTS)  # fmt: skip
        self._start()
        self.wait_until_ready()
