"""The stream: local batches in step order, fetched and tokenised by Ray Data tasks on whatever CPUs the cluster has.

Every rank runs a dataset of its own over the numbers of *legs*, a leg being a few consecutive steps of that rank. Ranks
are aligned by construction: no block is dealt between them, so no unequal block can shift them against each other (with
`streaming_split` it silently can), and a resume at any step or with another number of ranks needs only the numbers.

    legs ──read tasks: plan → slice → texts → ids, all steps of a leg at once──▶ blocks ──prefetch──▶ local batches

Order is preserved by Ray Data and checked here at every step; a lost task is run again by Ray and gives the same rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from pydantic import Field
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from hbt_ray.config import Config
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.store.node_cache import DEFAULT_CACHE, NodeCacheConfig
from hbt_ray.data.stream.auxiliary_texts import AuxiliaryTexts
from hbt_ray.data.stream.block import pack, unpack
from hbt_ray.data.stream.cpus import task_cpus
from hbt_ray.data.stream.loader import Loader, RankBatch, TokenisingConfig
from hbt_ray.data.stream.prometheus import StreamMetrics
from hbt_ray.errors import HbtError
from hbt_ray.ray_errors import failure, guarded_batches

# Datasets of more blocks start slowly (20,000 blocks: 27 to 45 s), so a longer stream is a sequence of datasets.
_MAX_LEGS = 1_000
_MAX_RETRIES = 10
"""Of a task whose process or node dies. Ray Data's default is to repeat it for ever."""


class StreamConfig(Config):
    """How the data reaches the trainer."""

    rows_per_task: int = Field(16_384, gt=0)
    """Rows that one Ray Data task prepares, rounded to whole steps. A task costs Ray some 40 ms, so few rows a task are
    slow, and many take memory."""
    tasks_per_worker: int = Field(2, gt=0)
    """Tasks that run at once for one rank, a CPU each."""
    prefetch_steps: int = Field(8, ge=0)
    """Steps that wait ready in the training process, rounded up to what whole tasks make."""
    prefetch_mib: float = Field(128, gt=0)
    """What the batches of one rank may take of the object store; near that, no further task is started."""
    cpus_per_task: float | None = Field(None, ge=0)
    """None: a CPU where the cluster has one beside those that are reserved, else none, as Ray would wait for ever."""
    cache: NodeCacheConfig = DEFAULT_CACHE
    """Of a store on object storage."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the tasks of one rank find everything."""

    store: str | Path
    plan: PlanConfig
    tokenising: TokenisingConfig
    rank: int
    world_size: int
    cache: NodeCacheConfig = DEFAULT_CACHE
    negatives: Path | None = None
    views: tuple[AuxiliaryTexts, ...] = ()
    scores: bool = False
    """Whether the batches bring the scores that their negatives were mined with."""

    def open(self) -> Loader:
        """What makes the batches, in the process of a task."""
        how = (self.tokenising, self.cache, self.negatives, self.views)
        return Loader(self.store, self.plan, *how, scores=self.scores)


def stream(origin: Origin, start: int, stop: int, config: StreamConfig) -> Iterator[RankBatch]:
    """Local batches of the steps start … stop-1, in order."""
    reference = ray.put(origin)  # Once, not with every task: a tokenizer of 250,000 pieces is 17 MB.
    local_rows = -(-origin.plan.batch_size // origin.world_size)
    legs = step_windows(start, stop, max(1, config.rows_per_task // local_rows))
    meter = StreamMetrics(origin.rank)
    expected, asked = start, time.perf_counter()
    while some := list(islice(legs, _MAX_LEGS)):
        for batch in _dataset(reference, some, config):
            if batch.step != expected:
                raise HbtError(
                    f"rank {origin.rank} was given step {batch.step} where {expected} was due: a defect of hbt_ray"
                )
            meter.count(len(batch.items), time.perf_counter() - asked)
            expected += 1
            yield batch
            asked = time.perf_counter()
    meter.hand_over()


def step_windows(start: int, stop: int, steps: int) -> Iterator[range]:
    """Legs of `steps` steps; the first ones are shorter, doubling, so that the first batch is there soon."""
    size = -(-steps // 8)
    while start < stop:
        yield range(start, min(start + size, stop))
        start, size = start + size, min(2 * size, steps)


class _Legs(Datasource):  # type: ignore[misc]  # Ray is not typed
    """A read task and a block for each leg.

    A source of its own, as `ray.data.range(…).map_batches(…)` makes two tasks of a leg (Ray fuses only what may run
    equally many at once), of which the first always asks for a CPU.
    """

    def __init__(self, reference: Any, legs: list[range]) -> None:
        super().__init__()
        self._reference, self._legs = reference, legs

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        return [
            ReadTask(partial(_read, self._reference, leg), BlockMetadata(len(leg), None, None, None))
            for leg in self._legs
        ]


def _read(reference: Any, leg: range) -> Iterator[pa.Table]:
    """What a task does."""
    try:
        loader, origin = _open(reference)
        block = pack(loader.leg(leg, origin.rank, origin.world_size))
    except Exception as error:
        block = failure(error)
    yield block


def _dataset(reference: Any, legs: list[range], config: StreamConfig) -> Iterator[RankBatch]:
    cpus = task_cpus() if config.cpus_per_task is None else config.cpus_per_task
    dataset = ray.data.read_datasource(
        _Legs(reference, legs),
        override_num_blocks=len(legs),
        num_cpus=cpus,
        compute=ray.data.TaskPoolStrategy(config.tasks_per_worker),
        ray_remote_args={"max_retries": _MAX_RETRIES},
    )
    options = dataset.context.execution_options
    options.preserve_order = True
    options.resource_limits = ray.data.ExecutionResources(object_store_memory=config.prefetch_mib * 2**20)
    dataset.context.enable_progress_bars = False
    blocks = -(-config.prefetch_steps // len(max(legs, key=len)))
    for table in guarded_batches(dataset, "preparing batches", prefetch_batches=blocks):
        yield from unpack(table)


_opened: dict[str, tuple[Loader, Origin]] = {}


def _open(reference: Any) -> tuple[Loader, Origin]:
    """The loader of this task's process, opened once for all tasks of a stream that it runs."""
    key = reference.hex()
    if key not in _opened:
        # A task has one CPU. Where the environment does not say otherwise, its tokenizer makes do with that: threads
        # for so short texts cost a tenth to a third more CPU time than they save, and cores are kept busy by tasks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        origin = ray.get(reference)
        _opened.clear()
        _opened[key] = origin.open(), origin
    return _opened[key]
