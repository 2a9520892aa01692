"""Rank batches in step order, read and tokenised by Ray Data tasks on any CPUs of the cluster.

Every rank runs a Ray dataset of its own over *windows*, each a few consecutive steps of that rank. Ranks are aligned by
construction: they share no blocks, so no unequal block can shift them against each other (with `streaming_split` it
silently can), and a resume at any step or with another number of ranks needs only these numbers.

    windows ──read tasks: plan → slice → texts → ids──▶ blocks, one row a step ──prefetch──▶ rank batches

Ray Data preserves the order, and every step is checked here. Ray repeats a lost task, which yields the same rows.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
import ray.data
from pydantic import Field
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util import metrics, placement_group_table

from hbt_ray.config import Config
from hbt_ray.data.store.node_cache import DEFAULT_CACHE, NodeCacheConfig
from hbt_ray.data.stream.loader import Loader, LoaderConfig
from hbt_ray.data.stream.rank_batch import RankBatch, from_table, to_table
from hbt_ray.errors import HbtError
from hbt_ray.ray_errors import failure, guarded_batches

# Datasets of more blocks start slowly (20,000 blocks: 27 to 45 s), so a longer stream is a sequence of datasets.
_WINDOWS_PER_DATASET = 1_000
_MAX_RETRIES = 10
"""Number of retries of a task whose process or node dies. Ray Data's default is to retry for ever."""


class StreamConfig(Config):
    """Reading and tokenising of the training data by Ray Data tasks."""

    rows_per_task: int = Field(16_384, gt=0)
    """Rows that one Ray Data task prepares, rounded down to whole steps, but at least one step. A task costs Ray about
    40 ms, so small tasks are slow; large ones take memory."""
    tasks_per_worker: int = Field(2, gt=0)
    """Maximum number of tasks that run at the same time for one rank, with one CPU each."""
    prefetch_steps: int = Field(8, ge=0)
    """Number of steps to prefetch into the training process, rounded up to whole tasks."""
    prefetch_mib: float = Field(128, gt=0)
    """Limit of Ray's object store memory for the batches of one rank, in MiB; near the limit no further task starts."""
    cpus_per_task: float | None = Field(None, ge=0)
    """CPUs that a task requests. null: 1 if a node has a CPU that is not reserved, else 0, so that no task waits
    forever."""
    cache: NodeCacheConfig = DEFAULT_CACHE
    """Cache on each node for a store on object storage."""


def stream(
    config: LoaderConfig, steps: range, rank: int, world_size: int, settings: StreamConfig
) -> Iterator[RankBatch]:
    """The batches of a rank for consecutive steps, in order."""
    reference = ray.put(config)  # Once, not with every task: a tokenizer of 250,000 pieces is 17 MB.
    # The largest slice of a rank: rounded up.
    rows_per_step = -(-config.plan.batch_size // world_size)
    windows = step_windows(steps.start, steps.stop, max(1, settings.rows_per_task // rows_per_step))
    rows_counter = metrics.Counter("hbt_stream_rows", "Rows handed to training", ("rank",))
    wait_counter = metrics.Counter("hbt_stream_wait_seconds", "Time that training waited for a batch", ("rank",))
    tags = {"rank": str(rank)}
    expected_step, begin = steps.start, time.perf_counter()
    while chosen := list(islice(windows, _WINDOWS_PER_DATASET)):
        for batch in _run_tasks(_Windows(reference, chosen, rank, world_size), settings):
            if batch.step != expected_step:
                raise HbtError(
                    f"rank {rank} received step {batch.step} instead of {expected_step}: a defect of hbt_ray",
                    code="STREAM_ORDER",
                )
            # Only the time between the consumer's request and the batch; training happens at `yield`.
            wait_counter.inc(time.perf_counter() - begin, tags)
            # With more ranks than rows a slice is empty, and a counter refuses 0.
            if len(batch.items):
                rows_counter.inc(len(batch.items), tags)
            expected_step += 1
            yield batch
            begin = time.perf_counter()


def step_windows(start: int, stop: int, size: int) -> Iterator[range]:
    """Windows of `size` steps. The first ones are shorter and double in size, so that the first batch comes soon."""
    # An eighth of the full size, rounded up.
    current = -(-size // 8)
    while start < stop:
        yield range(start, min(start + current, stop))
        start, current = start + current, min(2 * current, size)


class _Windows(Datasource):  # type: ignore[misc]  # Ray is not typed
    """Ray datasource with one read task and one block for each window.

    It replaces `ray.data.range(…).map_batches(…)`, which makes two tasks of a window (Ray fuses only tasks with equal
    limits of concurrency), the first of which always requests a CPU.
    """

    def __init__(self, reference: Any, windows: list[range], rank: int, world_size: int) -> None:
        super().__init__()
        self._reference, self.windows, self._rank, self._world_size = reference, windows, rank, world_size

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_read_window, self._reference, window, self._rank, self._world_size),
                # Rows of the block; its bytes, inputs and statistics are unknown beforehand.
                BlockMetadata(len(window), None, None, None),
            )
            for window in self.windows
        ]


def _read_window(reference: Any, window: range, rank: int, world_size: int) -> Iterator[pa.Table]:
    """The body of a read task."""
    try:
        block = to_table(_opened_loader(reference).rank_batches(window, rank, world_size))
    except Exception as error:
        # As a block, since Ray would wrap an exception; `guarded_batches` raises the error itself.
        block = failure(error)
    yield block


def _run_tasks(source: _Windows, settings: StreamConfig) -> Iterator[RankBatch]:
    dataset = ray.data.read_datasource(
        source,
        override_num_blocks=len(source.windows),
        num_cpus=task_cpus() if settings.cpus_per_task is None else settings.cpus_per_task,
        compute=ray.data.TaskPoolStrategy(settings.tasks_per_worker),
        ray_remote_args={"max_retries": _MAX_RETRIES},
    )
    options = dataset.context.execution_options
    # Blocks arrive in the order of the windows, whichever task ends first.
    options.preserve_order = True
    options.resource_limits = ray.data.ExecutionResources(object_store_memory=settings.prefetch_mib * 2**20)
    dataset.context.enable_progress_bars = False
    prefetched_blocks = -(-settings.prefetch_steps // len(max(source.windows, key=len)))
    for table in guarded_batches(dataset, "preparing batches", prefetch_batches=prefetched_blocks):
        yield from from_table(table)


_loaders: dict[str, Loader] = {}


def _opened_loader(reference: Any) -> Loader:
    """The loader of this process, opened once for all tasks of a stream that the process runs."""
    key = reference.hex()
    if key not in _loaders:
        # A task has one CPU, so its tokenizer uses one thread unless the environment says otherwise: more threads cost
        # such short texts a tenth to a third more CPU time than they save, and other tasks keep the cores busy.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        config: LoaderConfig = ray.get(reference)
        # A process serves one stream at a time; the loader of an earlier one would only take memory.
        _loaders.clear()
        _loaders[key] = config.open()
    return _loaders[key]


def task_cpus() -> float:
    """CPUs that a data task should request now: 1 if a node has a CPU that is not reserved, else 0.

    Training workers and trials reserve CPUs by placement groups for as long as they live. If all are reserved, a task
    that requests one waits forever, and the workers wait for the task; a task that requests none runs beside them.
    """
    return 1.0 if max_unreserved_cpus(ray.nodes(), placement_group_table().values()) >= 1 else 0.0


def max_unreserved_cpus(nodes: Collection[Mapping[str, Any]], groups: Collection[Mapping[str, Any]]) -> float:
    """CPUs outside placement groups, of the node that has most of them.

    Args:
        nodes: as returned by `ray.nodes()`.
        groups: as returned by `placement_group_table()`.
    """
    reserved: Counter[str] = Counter()
    for group in groups:
        # A removed group has returned its CPUs, but stays in the table.
        if group["state"] != "REMOVED":
            for bundle, node in group["bundles_to_node_id"].items():
                reserved[node] += group["bundles"][bundle].get("CPU", 0)
    return max(
        (node["Resources"].get("CPU", 0) - reserved[node["NodeID"]] for node in nodes if node["Alive"]), default=0
    )
