"""Checksums of a shard: one for each column of each record batch, which is the unit in which shards are read.

The checksums lie in the metadata of the shard's schema, and the manifest has the SHA-256 of that metadata. So a reader
verifies the columns that it reads, on this machine or in an object store, without reading the rest of the shard. An
undetected change would give other texts, or offsets beyond the mapped file, which end the process with a signal.

A checksum is the first half of the SHA-256 of a column's content: its type, nulls, offsets and bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_METADATA_KEY = b"hbt_ray"
_NUM_BYTES = 16
"""Length of one checksum."""


class ShardChecksums(NamedTuple):
    """The record batches, columns and checksums of a shard."""

    batch_offsets: list[int]
    """First row of each record batch, then the number of rows: [record batches + 1]."""
    column_numbers: dict[str, int]
    """Column name → position in the schema."""
    digests: NDArray[np.uint8]
    """[record batches, columns, bytes of a checksum]"""

    @classmethod
    def of_schema(cls, schema: pa.Schema, sha256: str) -> ShardChecksums:
        """Read the checksums from the metadata of a shard's schema, whose own checksum the manifest has.

        Raises:
            ArrowInvalid: there are no checksums, or they were changed.
        """
        content = (schema.metadata or {}).get(_METADATA_KEY, b"")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise pa.ArrowInvalid("its checksums are not those of the manifest")
        record = json.loads(content)
        shape = len(record["rows"]), len(record["columns"]), _NUM_BYTES
        digests = np.frombuffer(base64.b64decode(record["digests"]), np.uint8).reshape(shape)
        numbers = {name: number for number, name in enumerate(record["columns"])}
        return cls([0, *accumulate(record["rows"])], numbers, digests)

    def verify(self, batch: int, name: str, column: pa.Array) -> None:
        """Compare a column of a record batch with its checksum.

        Raises:
            ArrowInvalid: it differs from the column that was written.
        """
        if _digest(column) != self.digests[batch, self.column_numbers[name]].tobytes():
            raise pa.ArrowInvalid(f"column {name} of record batch {batch} is not what was written")


def write_shard(stream: Any, batches: Sequence[pa.RecordBatch]) -> str:
    """Write record batches of one schema as a shard. Returns the SHA-256 of their checksums, for the manifest."""
    digests = b"".join(_digest(column) for batch in batches for column in batch.columns)
    record = {
        "rows": [batch.num_rows for batch in batches],
        "columns": batches[0].schema.names,
        "digests": base64.b64encode(digests).decode(),
    }
    content = json.dumps(record).encode()
    schema = batches[0].schema.with_metadata({_METADATA_KEY: content})
    with pa.ipc.new_file(pa.PythonFile(stream, "w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return hashlib.sha256(content).hexdigest()


def _digest(column: pa.Array) -> bytes:
    """Checksum of a column. Reads only within the buffers, even if offsets and lengths are wrong.

    Raises:
        ArrowInvalid: the buffers are too small for the column's length.
    """
    # A slice shares the buffers of the whole array; those of its copy begin at its first row.
    if column.offset:
        column = pa.concat_arrays([column])
    # [validity, values], [validity, offsets, bytes], or for a list [validity, offsets, buffers of its values].
    validity, *buffers = column.buffers()
    if validity is not None and validity.size * 8 < len(column):  # Arrow would count nulls beyond the buffer.
        raise pa.ArrowInvalid("a column is cut short (nulls)")
    digest = hashlib.sha256(f"{column.type} {len(column)} {column.null_count} ".encode())
    try:
        if column.null_count:
            # Unpack and pack again: the bits beyond the last row are undefined.
            present = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(column), bitorder="little")
            digest.update(np.packbits(present).tobytes())
        if not len(column):
            return digest.digest()[:_NUM_BYTES]
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            digest.update(_leading_bytes(buffers[0], len(column) * column.type.bit_width // 8))
            return digest.digest()[:_NUM_BYTES]
        # Offsets, [rows + 1].
        dtype = np.int64 if pa.types.is_large_string(column.type) else np.int32
        offsets = np.frombuffer(_leading_bytes(buffers[0], (len(column) + 1) * np.dtype(dtype).itemsize), dtype)
        # Relative to the first: Arrow writes the offsets of a slice so that they begin with 0.
        first, last = int(offsets[0]), int(offsets[-1])
        digest.update((offsets - offsets[0]).tobytes())
        if pa.types.is_list(column.type):
            if not 0 <= first <= last <= len(column.values):
                raise ValueError(f"{last:,} values are needed")
            # The range was checked: a slice beyond the values would read outside the buffers.
            digest.update(_digest(column.values.slice(first, last - first)))
        else:
            digest.update(_leading_bytes(buffers[1], last)[max(0, first) :])
    except (ValueError, TypeError) as error:
        raise pa.ArrowInvalid(f"a column is cut short ({error})") from None
    return digest.digest()[:_NUM_BYTES]


def _leading_bytes(buffer: pa.Buffer | None, size: int) -> memoryview:
    """The first `size` bytes of a buffer; raises `ValueError` if it has fewer."""
    content = memoryview(buffer if buffer is not None else b"")[:size] if size >= 0 else memoryview(b"")
    if len(content) != size:
        raise ValueError(f"{size:,} bytes are needed")
    return content
