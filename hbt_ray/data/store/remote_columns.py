"""Columns of shards on object storage: one column of one record batch is fetched at a time, and kept by the cache.

Of every shard in use there is an index: its passage keys in the layout of its record batches, and the checksums of its
columns. With it, 4,096 texts of a language cost their own bytes and the shard's footer (90 KB at 128 languages). What
is fetched is compared with its checksum, and so is what the cache has, when a process first opens it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from hbt_ray.data.index.manifest import Shard
from hbt_ray.data.store.columns import ColumnChunk, naming_shard_errors
from hbt_ray.data.store.node_cache import NodeCache
from hbt_ray.data.store.shard_checksums import ShardChecksums
from hbt_ray.storage.location import filesystem, join_location, with_retries

KEY, RIGHT_KEYS = "passage_key", "right_keys"
_FETCHES = 16
"""At once, by one process: they wait for the network, not for a core."""
_MAX_HELD = 1024
"""Arrays that one process has mapped; what the cache evicts meanwhile keeps its space until they go."""
_SECONDS_BETWEEN_TOUCHES = 60.0


@dataclass(slots=True)
class _Held:
    array: pa.Array | None
    key: tuple[object, ...]
    touched: float


class _Index(NamedTuple):
    """What one needs to know of a shard before reading it."""

    checksums: ShardChecksums
    keys: Sequence[pa.Array]


class RemoteColumnReader:
    """Shards under a URI.

    Raises:
        StoreError: from its methods, where a shard is missing, damaged, or out of reach after several tries.
    """

    def __init__(self, location: str, shards: Iterable[Shard], cache: NodeCache) -> None:
        self._location = location
        self._checksums = {shard.file: shard.checksums for shard in shards}
        self._cache = cache
        self._indexes: dict[str, _Index] = {}
        self._held: OrderedDict[ColumnChunk, _Held] = OrderedDict()
        self._holding = threading.Lock()
        self._pool = ThreadPoolExecutor(_FETCHES, "hbt-fetch")
        with naming_shard_errors(location):
            self._system, root = filesystem(location)
        self._root = root.rstrip("/")

    def starts(self, files: Collection[str]) -> dict[str, Sequence[int]]:
        absent = [file for file in files if file not in self._indexes]
        self._indexes.update(zip(absent, self._pool.map(self._index, absent), strict=True))
        return {file: self._indexes[file].checksums.starts for file in files}

    def read(self, units: Collection[ColumnChunk]) -> dict[ColumnChunk, pa.Array | None]:
        self.starts({unit.file for unit in units})
        arrays = {unit: self._indexes[unit.file].keys[unit.batch] for unit in units if unit.column == KEY}
        with self._holding:
            for unit in units:
                if held := self._held.get(unit):
                    arrays[unit] = self._used(unit, held)
        absent = [unit for unit in units if unit not in arrays]
        loaded = list(self._pool.map(self._load, absent))
        with self._holding:
            self._held.update(zip(absent, loaded, strict=True))
            while len(self._held) > _MAX_HELD:
                self._held.popitem(last=False)
        return arrays | {unit: held.array for unit, held in zip(absent, loaded, strict=True)}

    def _used(self, unit: ColumnChunk, held: _Held) -> pa.Array | None:
        self._held.move_to_end(unit)
        if time.monotonic() - held.touched > _SECONDS_BETWEEN_TOUCHES:
            held.touched = time.monotonic()
            self._cache.touch(held.key)
        return held.array

    def _load(self, unit: ColumnChunk) -> _Held:
        key = (self._location, self._checksums[unit.file], unit.batch, unit.column)
        checksums = self._indexes[unit.file].checksums
        number = checksums.columns.get(unit.column)
        if number is None:
            return _Held(None, key, time.monotonic())

        def check(batches: Sequence[pa.RecordBatch]) -> None:
            checksums.check(unit.batch, unit.column, batches[0].column(0))

        fetch = partial(self._fetch, unit.file, partial(_one_column, unit.batch, number), check)
        return _Held(self._cache.get(key, fetch, check)[0].column(0), key, time.monotonic())

    def _index(self, file: str) -> _Index:
        sha256 = self._checksums[file]

        def check(batches: Sequence[pa.RecordBatch]) -> None:
            checksums = ShardChecksums.parse(batches[0].schema.metadata, sha256)
            if len(batches) != len(checksums.rows):
                raise pa.ArrowInvalid("it has other record batches than were written")
            for number, batch in enumerate(batches):
                checksums.check(number, KEY, batch.column(0))

        fetch = partial(self._fetch, file, _all_keys, check)
        batches = self._cache.get((self._location, sha256, "index"), fetch, check)
        checksums = ShardChecksums.parse(batches[0].schema.metadata, sha256)
        return _Index(checksums, [batch.column(0) for batch in batches])

    def _fetch(
        self, file: str, take: Callable[[Any], list[pa.RecordBatch]], check: Callable[[Sequence[pa.RecordBatch]], None]
    ) -> pa.Buffer:
        """A part of a shard, as an Arrow file of its own."""

        def once() -> pa.Buffer:
            with self._system.open_input_file(f"{self._root}/{file}") as source:
                batches = take(source)
            check(batches)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, batches[0].schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            return sink.getvalue()

        location = join_location(self._location, file)
        with naming_shard_errors(location):
            return with_retries(once, location)


def _one_column(batch: int, column: int, source: Any) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[column]))
    return [reader.get_batch(batch)]


def _all_keys(source: Any) -> list[pa.RecordBatch]:
    names = pa.ipc.open_file(source).schema.names
    if KEY not in names:
        raise pa.ArrowInvalid(f"it has no column {KEY}")
    options = pa.ipc.IpcReadOptions(included_fields=[names.index(KEY)])
    reader = pa.ipc.open_file(source, options=options)
    if not reader.num_record_batches:
        raise pa.ArrowInvalid("it has no rows")
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
