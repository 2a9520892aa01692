"""Column chunks of shards in an object store, fetched one at a time and kept by the node's cache.

For every shard in use the reader holds an index: the passage keys, in the layout of the record batches, and the
checksums. With it, 4,096 texts of a language cost their own bytes and the shard's footer (90 KB at 128 languages).
Column chunks are verified when they are fetched, and when a process first opens them in the cache.
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
from hbt_ray.data.store.columns import PASSAGE_KEY, ColumnChunk, naming_shard_errors
from hbt_ray.data.store.node_cache import NodeCache
from hbt_ray.data.store.shard_checksums import ShardChecksums
from hbt_ray.storage.location import filesystem, join_location, with_retries

_NUM_THREADS = 16
"""Concurrent requests of one process, which wait for the network and not for a CPU."""
_MAX_HELD = 1024
"""Arrays that one process keeps mapped. The disk space of an evicted file is free once nobody has it mapped."""
_SECONDS_BETWEEN_TOUCHES = 60.0
"""A held array does not pass through the cache, so the cache is told that it is in use at these intervals."""


@dataclass(slots=True)
class _HeldArray:
    array: pa.Array | None
    key: tuple[object, ...]
    """Key in the node's cache."""
    touched: float


class _ShardIndex(NamedTuple):
    checksums: ShardChecksums
    passage_keys: Sequence[pa.Array]
    """One array for each record batch."""


class RemoteColumnReader:
    """Reads column chunks of shards under a URI.

    Raises:
        StoreError: by its methods, if a shard is missing, damaged, or cannot be reached in several attempts.
    """

    def __init__(self, location: str, shards: Iterable[Shard], cache: NodeCache) -> None:
        self._location = location
        self._sha256 = {shard.file: shard.checksums for shard in shards}
        self._cache = cache
        self._indexes: dict[str, _ShardIndex] = {}
        self._held: OrderedDict[ColumnChunk, _HeldArray] = OrderedDict()
        self._held_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_NUM_THREADS, "hbt-fetch")
        with naming_shard_errors(location):
            self._system, root = filesystem(location)
        self._root = root.rstrip("/")

    def batch_offsets(self, files: Collection[str]) -> dict[str, Sequence[int]]:
        absent = [file for file in files if file not in self._indexes]
        self._indexes.update(zip(absent, self._pool.map(self._load_index, absent), strict=True))
        return {file: self._indexes[file].checksums.batch_offsets for file in files}

    def read(self, chunks: Collection[ColumnChunk]) -> dict[ColumnChunk, pa.Array | None]:
        self.batch_offsets({chunk.file for chunk in chunks})
        arrays = {
            chunk: self._indexes[chunk.file].passage_keys[chunk.batch]
            for chunk in chunks
            if chunk.column == PASSAGE_KEY
        }
        with self._held_lock:
            for chunk in chunks:
                if held := self._held.get(chunk):
                    self._held.move_to_end(chunk)
                    self._touch(held)
                    arrays[chunk] = held.array
        absent = [chunk for chunk in chunks if chunk not in arrays]
        loaded = list(self._pool.map(self._load, absent))
        with self._held_lock:
            self._held.update(zip(absent, loaded, strict=True))
            while len(self._held) > _MAX_HELD:
                self._held.popitem(last=False)
        return arrays | {chunk: held.array for chunk, held in zip(absent, loaded, strict=True)}

    def _touch(self, held: _HeldArray) -> None:
        if time.monotonic() - held.touched > _SECONDS_BETWEEN_TOUCHES:
            held.touched = time.monotonic()
            self._cache.touch(held.key)

    def _load(self, chunk: ColumnChunk) -> _HeldArray:
        key = (self._location, self._sha256[chunk.file], chunk.batch, chunk.column)
        checksums = self._indexes[chunk.file].checksums
        number = checksums.column_numbers.get(chunk.column)
        if number is None:
            return _HeldArray(None, key, time.monotonic())

        def verify(batches: Sequence[pa.RecordBatch]) -> None:
            checksums.verify(chunk.batch, chunk.column, batches[0].column(0))

        fetch = partial(self._fetch, chunk.file, partial(_read_column, chunk.batch, number), verify)
        return _HeldArray(self._cache.get(key, fetch, verify)[0].column(0), key, time.monotonic())

    def _load_index(self, file: str) -> _ShardIndex:
        sha256 = self._sha256[file]

        def verify(batches: Sequence[pa.RecordBatch]) -> None:
            checksums = ShardChecksums.parse(batches[0].schema.metadata, sha256)
            if len(batches) != len(checksums.batch_rows):
                raise pa.ArrowInvalid("it has other record batches than were written")
            for number, batch in enumerate(batches):
                checksums.verify(number, PASSAGE_KEY, batch.column(0))

        fetch = partial(self._fetch, file, _read_passage_keys, verify)
        batches = self._cache.get((self._location, sha256, "index"), fetch, verify)
        checksums = ShardChecksums.parse(batches[0].schema.metadata, sha256)
        return _ShardIndex(checksums, [batch.column(0) for batch in batches])

    def _fetch(
        self,
        file: str,
        read: Callable[[Any], list[pa.RecordBatch]],
        verify: Callable[[Sequence[pa.RecordBatch]], None],
    ) -> pa.Buffer:
        """Fetch a part of a shard. Returns it as an Arrow file of its own.

        Args:
            read: reads the part from the open shard.
            verify: raises ArrowInvalid if the part is damaged.
        """

        def request() -> pa.Buffer:
            with self._system.open_input_file(f"{self._root}/{file}") as source:
                batches = read(source)
            verify(batches)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, batches[0].schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            return sink.getvalue()

        location = join_location(self._location, file)
        with naming_shard_errors(location):
            return with_retries(request, location)


def _read_column(batch: int, column: int, source: Any) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[column]))
    return [reader.get_batch(batch)]


def _read_passage_keys(source: Any) -> list[pa.RecordBatch]:
    names = pa.ipc.open_file(source).schema.names
    if PASSAGE_KEY not in names:
        raise pa.ArrowInvalid(f"it has no column {PASSAGE_KEY}")
    options = pa.ipc.IpcReadOptions(included_fields=[names.index(PASSAGE_KEY)])
    reader = pa.ipc.open_file(source, options=options)
    if not reader.num_record_batches:
        raise pa.ArrowInvalid("it has no rows")
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
