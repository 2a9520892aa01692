"""Column chunks of shards: lookup of the values of items, and the two readers, for a folder and for a URI.

A column chunk is one column of one record batch of one shard. Shards are read and verified in these units: on this
machine from memory-mapped files, under a URI with one request each through the node's cache. A process reads the
checksums of a shard once; after that, 4,096 texts of a language cost their own bytes and the shard's footer (90 KB at
128 languages).

Nothing here concatenates record batches: `ChunkedArray.take` would copy the whole column for every batch of rows
(measured: 0.23 s and 357 MB for 256 rows of 300 shards, against 0.3 ms row by row).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hbt_ray.data.index.language_index import LanguageCodes
from hbt_ray.data.index.manifest import Shard
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.store.node_cache import ARROW_ERRORS, NodeCache, map_file
from hbt_ray.data.store.shard_checksums import ShardChecksums
from hbt_ray.errors import StoreError
from hbt_ray.storage.location import join_location
from hbt_ray.storage.object_store import filesystem, with_retries

PASSAGE_KEY, RIGHT_KEYS = "passage_key", "right_keys"
SIDES = ("question", "passage", "answer")
"""Texts that an item may have in a language; answers are optional."""

_MAX_ARRAYS = 200_000
"""Maximum number of arrays of mapped files that stay open; at about 300 bytes each they take at most 60 MB."""
_MIN_ROWS_FOR_TAKE = 16
"""Below this number of rows, reading values one by one is faster than `Array.take`; with many, take is three times as
fast."""
_NUM_THREADS = 16
"""Number of concurrent requests of one process; more than CPUs, because they wait for the network."""
_MAX_HELD = 1024
"""Maximum number of arrays of the node's cache that one process keeps mapped. The disk space of an evicted file is
freed when no process has it mapped."""
_HOLD_SECONDS = 60.0
"""Interval at which the held arrays are dropped: opening them again marks their files as recently used."""


class ColumnChunk(NamedTuple):
    """One column of one record batch."""

    file: str
    """File name of the shard in the manifest."""
    batch: int
    """Number of the record batch in the shard."""
    column: str


class ItemRows(NamedTuple):
    """Record batch and row of each item."""

    files: list[str]
    batches: list[int]
    """Shard and number of each record batch that holds any of the items."""
    batch_index: Indices
    """Position in `files` and `batches`, [items]."""
    rows: Indices
    """Row in the record batch, [items]."""


class RowLookup(NamedTuple):
    """Column chunk and row of each value."""

    chunks: list[ColumnChunk]
    chunk_index: Indices
    """Position in `chunks`, [values]."""
    rows: Indices
    """Row in the column chunk, [values]."""


def text_lookup(items: ItemRows, side: str, codes: LanguageCodes, languages: tuple[str, ...]) -> RowLookup:
    """Column chunk and row of the text of each item in its language.

    Args:
        side: one of `SIDES`.
        codes: language of each item, as a position in `languages`.
    """
    # One number for each pair of record batch and language, so that `unique` finds the pairs that occur.
    combined, chunk_index = np.unique(items.batch_index * len(languages) + codes, return_inverse=True)
    pairs = [divmod(number, len(languages)) for number in combined.tolist()]
    chunks = [ColumnChunk(items.files[at], items.batches[at], f"{side}.{languages[code]}") for at, code in pairs]
    return RowLookup(chunks, chunk_index, items.rows)


def column_lookup(items: ItemRows, column: str) -> RowLookup:
    """Column chunk and row of each item in one column."""
    chunks = [ColumnChunk(file, batch, column) for file, batch in zip(items.files, items.batches, strict=True)]
    return RowLookup(chunks, items.batch_index, items.rows)


def gather(arrays: list[pa.Array | None], lookup: RowLookup) -> list[Any]:
    """The values of a lookup, [values]; None for a null and for a missing column.

    Args:
        arrays: content of each chunk of the lookup; None if the shard has no such column.
    """
    # Chunk by chunk, since concatenating them would copy them whole.
    order = np.argsort(lookup.chunk_index, kind="stable")
    # End of each chunk's values in the sorted order, [chunks].
    ends = np.searchsorted(lookup.chunk_index[order], np.arange(len(arrays)), side="right").tolist()
    rows, sorted_values, start = lookup.rows[order].tolist(), [], 0
    for array, end in zip(arrays, ends, strict=True):
        if array is None:
            sorted_values += [None] * (end - start)
        elif end - start < _MIN_ROWS_FOR_TAKE:
            sorted_values += [array[row].as_py() for row in rows[start:end]]
        else:
            sorted_values += array.take(pa.array(rows[start:end])).to_pylist()
        start = end
    # Back to the order of the lookup.
    values: list[Any] = [None] * len(sorted_values)
    for position, value in zip(order.tolist(), sorted_values, strict=True):
        values[position] = value
    return values


class LocalColumnReader:
    """Reads memory-mapped shards of a folder. A column chunk is read from the disk when it is first used.

    A process verifies the checksum of a column chunk on the first read.

    Args:
        num_columns: columns of the widest shard; bounds how many record batches stay open.
    """

    def __init__(self, root: Path, shards: Iterable[Shard], num_columns: int) -> None:
        self._root = root
        self._sha256 = {shard.file: shard.checksums for shard in shards}
        self._batch_offsets: dict[str, Sequence[int]] = {}
        self._verified: dict[str, NDArray[np.bool_]] = {}  # Shard → [record batches, columns]
        # Caches of this object: a decorator on the methods would be shared and keep the object alive.
        self._open = lru_cache(max(64, _MAX_ARRAYS // num_columns))(self._open_shard)
        self._batch = lru_cache(max(64, _MAX_ARRAYS // num_columns))(self._read_batch)

    def batch_offsets(self, files: Collection[str]) -> dict[str, Sequence[int]]:
        """Shard → first row of each record batch, then the number of rows: [record batches + 1]."""
        for file in files:
            if file not in self._batch_offsets:
                self._batch_offsets[file] = self._open(file)[1].batch_offsets
        return {file: self._batch_offsets[file] for file in files}

    def read(self, chunks: Collection[ColumnChunk]) -> dict[ColumnChunk, pa.Array | None]:
        """Column chunk → content; None if the shard has no such column."""
        return {chunk: self._read_chunk(chunk) for chunk in chunks}

    def _read_chunk(self, chunk: ColumnChunk) -> pa.Array | None:
        _, checksums = self._open(chunk.file)
        number = checksums.column_numbers.get(chunk.column)
        if number is None:
            return None
        array = self._batch(chunk.file, chunk.batch).column(number)
        verified = self._verified[chunk.file]
        if not verified[chunk.batch, number]:
            with naming_shard_errors(self._root / chunk.file):
                checksums.verify(chunk.batch, chunk.column, array)
            verified[chunk.batch, number] = True
        return array

    def _open_shard(self, file: str) -> tuple[Any, ShardChecksums]:
        with naming_shard_errors(self._root / file):
            reader = map_file(self._root / file)
            checksums = ShardChecksums.of_schema(reader.schema, self._sha256[file])
            if (
                reader.schema.names != list(checksums.column_numbers)
                or reader.num_record_batches != checksums.digests.shape[0]
            ):
                raise pa.ArrowInvalid("it has other columns or record batches than were written")
        # `setdefault`: a shard that the cache evicted and opened again stays verified.
        self._verified.setdefault(file, np.zeros(checksums.digests.shape[:2], bool))
        return reader, checksums

    def _read_batch(self, file: str, number: int) -> pa.RecordBatch:
        with naming_shard_errors(self._root / file):
            return self._open(file)[0].get_batch(number)


class RemoteColumnReader:
    """Reads column chunks of shards under a URI, with one request each, through the node's cache.

    A column chunk is verified when it is fetched, and when a process first opens it in the cache.

    Raises:
        StoreError: by its methods, if a shard is missing, damaged, or cannot be reached in several attempts.
    """

    def __init__(self, location: str, shards: Iterable[Shard], cache: NodeCache) -> None:
        self._location = location
        self._sha256 = {shard.file: shard.checksums for shard in shards}
        self._cache = cache
        self._checksums: dict[str, ShardChecksums] = {}
        self._held: dict[ColumnChunk, pa.Array | None] = {}
        self._dropped = time.monotonic()
        self._held_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_NUM_THREADS, "hbt-fetch")
        with naming_shard_errors(location):
            self._system, root = filesystem(location)
        self._root = root.rstrip("/")

    def batch_offsets(self, files: Collection[str]) -> dict[str, Sequence[int]]:
        """See `LocalColumnReader.batch_offsets`."""
        absent = [file for file in files if file not in self._checksums]
        self._checksums.update(zip(absent, self._pool.map(self._load_checksums, absent), strict=True))
        return {file: self._checksums[file].batch_offsets for file in files}

    def read(self, chunks: Collection[ColumnChunk]) -> dict[ColumnChunk, pa.Array | None]:
        """See `LocalColumnReader.read`."""
        # Loads the checksums that `_load` needs.
        self.batch_offsets({chunk.file for chunk in chunks})
        with self._held_lock:
            if time.monotonic() - self._dropped > _HOLD_SECONDS:
                self._held, self._dropped = {}, time.monotonic()
            arrays = {chunk: self._held[chunk] for chunk in chunks if chunk in self._held}
        # Requests run without the lock; two threads may load the same chunk, which does no harm.
        absent = [chunk for chunk in chunks if chunk not in arrays]
        loaded = dict(zip(absent, self._pool.map(self._load, absent), strict=True))
        with self._held_lock:
            self._held.update(loaded)
            while len(self._held) > _MAX_HELD:
                del self._held[next(iter(self._held))]  # The oldest one.
        return arrays | loaded

    def _load(self, chunk: ColumnChunk) -> pa.Array | None:
        checksums = self._checksums[chunk.file]
        number = checksums.column_numbers.get(chunk.column)
        if number is None:
            return None

        def verify(batches: Sequence[pa.RecordBatch]) -> None:
            checksums.verify(chunk.batch, chunk.column, batches[0].column(0))

        def read(source: Any) -> pa.RecordBatch:
            # Arrow then requests only the byte range of this column.
            options = pa.ipc.IpcReadOptions(included_fields=[number])
            return pa.ipc.open_file(source, options=options).get_batch(chunk.batch)

        # With the checksum in the key, a store that was prepared again does not hit old entries.
        key = (self._location, self._sha256[chunk.file], chunk.batch, chunk.column)
        return self._cache.get(key, partial(self._fetch, chunk.file, read, verify), verify)[0].column(0)

    def _load_checksums(self, file: str) -> ShardChecksums:
        sha256 = self._sha256[file]

        def verify(batches: Sequence[pa.RecordBatch]) -> None:
            ShardChecksums.of_schema(batches[0].schema, sha256)

        def read(source: Any) -> pa.RecordBatch:
            schema = pa.ipc.open_file(source).schema
            # The checksums lie in the schema's metadata; an empty column makes it a file for the cache.
            return pa.record_batch([pa.nulls(0)], schema=pa.schema({"none": pa.null()}, metadata=schema.metadata))

        fetch = partial(self._fetch, file, read, verify)
        batches = self._cache.get((self._location, sha256, "checksums"), fetch, verify)
        return ShardChecksums.of_schema(batches[0].schema, sha256)

    def _fetch(
        self,
        file: str,
        read: Callable[[Any], pa.RecordBatch],
        verify: Callable[[Sequence[pa.RecordBatch]], None],
    ) -> pa.Buffer:
        """Fetch a part of a shard, which `read` returns and `verify` accepts, as the content of an Arrow file."""

        def request() -> pa.Buffer:
            with self._system.open_input_file(f"{self._root}/{file}") as source:
                batch = read(source)
            # Before it is cached. Damage is an `ArrowInvalid`, which `with_retries` does not repeat.
            verify([batch])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            return sink.getvalue()

        location = join_location(self._location, file)
        with naming_shard_errors(location):
            return with_retries(request, location)


@contextmanager
def naming_shard_errors(location: str | Path) -> Iterator[None]:
    """Raise a `StoreError` that names the shard for any error of reading it within the block."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(
            f"{location}: missing, although the manifest lists it. Prepare the store again", code="MISSING_SHARD"
        ) from None
    except ARROW_ERRORS as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{location}: cannot be read ({reason}). `hbt store verify` shows what is damaged", code="DAMAGED_SHARD"
        ) from None
