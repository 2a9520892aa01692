"""The stream: local batches in step order, fetched and tokenised by Ray Data tasks on whatever CPUs the cluster has.

Every rank runs a dataset of its own over the numbers of *legs*, a leg being a few consecutive steps of that rank. Ranks
are aligned by construction: no block is dealt between them, so no unequal block can shift them against each other (with
`streaming_split` it silently can), and a resume at any step or with another number of ranks needs only the numbers.

    range(legs) ──map_batches: plan.batch → slice → texts → ids──▶ rows (one a step) ──prefetch──▶ LocalBatch
Order is preserved by Ray Data and checked here at every step; a lost task is run again by Ray and gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.cache import DEFAULT, CacheConfig
from hbt_ray.data.local import Loader, LocalBatch, TokenisingConfig
from hbt_ray.data.policy import PlanConfig
from hbt_ray.data.tokens import Tokens
from hbt_ray.errors import HbtError

# Datasets of more blocks start slowly (20,000 blocks: 27 to 45 s), so a longer stream is a sequence of datasets.
_MAX_LEGS = 1_000


class StreamConfig(Config):
    """How the data reaches the trainer."""

    steps_per_task: int = Field(16, gt=0)
    """Steps that one Ray Data task prepares; more is faster and needs more memory."""
    tasks_per_worker: int = Field(1, gt=0)
    """Tasks that run at once for one rank, a CPU each."""
    prefetch_steps: int = Field(8, ge=0)
    """Steps that wait ready in the training process, rounded up to what whole tasks make."""
    cache: CacheConfig = DEFAULT
    """Of a store on object storage."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the tasks of one rank find everything."""

    store: str | Path
    plan: PlanConfig
    tokenising: TokenisingConfig
    rank: int
    world_size: int
    cache: CacheConfig = DEFAULT
    negatives: Path | None = None


def stream(origin: Origin, start: int, stop: int, config: StreamConfig) -> Iterator[LocalBatch]:
    """Local batches of the steps start … stop-1, in order."""
    reference = ray.put(origin)  # Once, not with every task: a tokenizer of 250,000 pieces is 17 MB.
    leg = config.steps_per_task
    expected = start
    for first in range(start, stop, leg * _MAX_LEGS):
        last = min(first + leg * _MAX_LEGS, stop)
        for batch in _dataset(reference, first, last, config):
            if batch.step != expected:
                raise HbtError(
                    f"rank {origin.rank} was given step {batch.step} where {expected} was due: a defect of hbt_ray"
                )
            expected += 1
            yield batch


def _dataset(reference: Any, start: int, stop: int, config: StreamConfig) -> Iterator[LocalBatch]:
    num_legs = -(-(stop - start) // config.steps_per_task)

    def prepare(legs: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        loader, origin = _open(reference)
        for leg in legs["id"].tolist():
            first = start + leg * config.steps_per_task
            steps = range(first, min(first + config.steps_per_task, stop))
            yield _to_table([loader.local(step, origin.rank, origin.world_size) for step in steps])

    dataset = ray.data.range(num_legs, override_num_blocks=num_legs).map_batches(
        prepare, batch_size=1, compute=ray.data.TaskPoolStrategy(config.tasks_per_worker), zero_copy_batch=True
    )
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    blocks = -(-config.prefetch_steps // config.steps_per_task)
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=blocks):
        yield from map(_from_row, (table.slice(row, 1) for row in range(table.num_rows)))


_ARRAYS = {
    "items": np.int64,
    "passage_keys": np.int64,
    "negative_keys": np.int64,
    **{f"{side}_{part}": np.int32 for side in ("question", "passage", "negative") for part in ("ids", "lengths")},
}
"""Columns that hold an array as its bytes: lists of Python integers would cost more than the tokenizer."""


def _to_table(batches: list[LocalBatch]) -> pa.Table:
    """One row a step."""
    columns: dict[str, Any] = {
        name: [getattr(batch, name) for batch in batches] for name in ("step", "kind", "dataset", "language")
    }
    for name in _ARRAYS:
        columns[name] = pa.array([_array(batch, name).tobytes() for batch in batches], pa.large_binary())
    return pa.table(columns)


def _array(batch: LocalBatch, name: str) -> NDArray[Any]:
    side, _, part = name.rpartition("_")
    array: NDArray[Any] = (
        getattr(getattr(batch, side + "s"), part) if part in ("ids", "lengths") else getattr(batch, name)
    )
    return array


def _from_row(row: pa.Table) -> LocalBatch:
    arrays = {name: np.frombuffer(row.column(name)[0].as_buffer(), kind) for name, kind in _ARRAYS.items()}
    sides: Any = {
        f"{side}s": Tokens(arrays[f"{side}_ids"], arrays[f"{side}_lengths"])
        for side in ("question", "passage", "negative")
    }
    return LocalBatch(
        **{name: row.column(name)[0].as_py() for name in ("step", "kind", "dataset", "language")},
        items=arrays["items"],
        passage_keys=arrays["passage_keys"],
        negative_keys=arrays["negative_keys"],
        **sides,
    )


_opened: dict[str, tuple[Loader, Origin]] = {}


def _open(reference: Any) -> tuple[Loader, Origin]:
    """The loader of this task's process, opened once for all tasks of a stream that it runs."""
    key = reference.hex()
    if key not in _opened:
        origin = ray.get(reference)
        _opened.clear()
        _opened[key] = Loader(origin.store, origin.plan, origin.tokenising, origin.cache, origin.negatives), origin
    return _opened[key]
