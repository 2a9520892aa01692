"""Checksums of a shard: one for each column of each record batch, which is what a reader takes of a shard at once.

They lie in the metadata of the shard's schema, and the manifest has the SHA-256 of that metadata. So a reader checks
what it reads, near or far, and reads nothing else. A damaged shard would otherwise give other texts, or offsets that
lead out of the mapped file and end the process.

A checksum is the first half of the SHA-256 of a column's values: its type, nulls, offsets and bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

METADATA = b"hbt_ray"
"""Key of the schema's metadata."""
_BYTES = 16


@dataclass(frozen=True, eq=False)
class ShardChecksums:
    """What a shard holds."""

    rows: tuple[int, ...]
    """Of each record batch."""
    columns: dict[str, int]
    """Name → number of the column."""
    digests: NDArray[np.uint8]
    """[record batches, columns, bytes of a checksum]"""

    @classmethod
    def of(cls, batches: Sequence[pa.RecordBatch]) -> ShardChecksums:
        """Those of a shard with these record batches."""
        names = batches[0].schema.names
        digests = [[_digest(column) for column in batch.columns] for batch in batches]
        return cls(
            tuple(batch.num_rows for batch in batches),
            {name: number for number, name in enumerate(names)},
            np.frombuffer(b"".join(map(b"".join, digests)), np.uint8).reshape(len(batches), len(names), _BYTES),
        )

    @classmethod
    def parse(cls, metadata: dict[bytes, bytes] | None, sha256: str) -> ShardChecksums:
        """Those in the metadata of a shard's schema.

        Args:
            sha256: of the metadata, by the manifest.

        Raises:
            ArrowInvalid: there are none, or they were changed.
        """
        content = (metadata or {}).get(METADATA, b"")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise pa.ArrowInvalid("its checksums are not those of the manifest")
        record = json.loads(content)
        shape = len(record["rows"]), len(record["columns"]), _BYTES
        digests = np.frombuffer(base64.b64decode(record["digests"]), np.uint8).reshape(shape)
        return cls(tuple(record["rows"]), {name: number for number, name in enumerate(record["columns"])}, digests)

    @cached_property
    def content(self) -> bytes:
        """The metadata's value."""
        digests = base64.b64encode(self.digests.tobytes()).decode()
        return json.dumps({"rows": self.rows, "columns": list(self.columns), "digests": digests}).encode()

    @property
    def sha256(self) -> str:
        """For the manifest."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def starts(self) -> list[int]:
        """First row of each record batch, and the number of rows at the end."""
        return [0, *accumulate(self.rows)]

    def check(self, batch: int, name: str, column: pa.Array) -> None:
        """Raises: ArrowInvalid if it is not that column of that record batch."""
        if _digest(column) != self.digests[batch, self.columns[name]].tobytes():
            raise pa.ArrowInvalid(f"column {name} of record batch {batch} is not what was written")


def write_shard(stream: Any, batches: Sequence[pa.RecordBatch]) -> str:
    """Write record batches of one schema as a shard. Returns the SHA-256 of their checksums, for the manifest."""
    checksums = ShardChecksums.of(batches)
    schema = batches[0].schema.with_metadata({METADATA: checksums.content})
    with pa.ipc.new_file(pa.PythonFile(stream, "w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return checksums.sha256


def _digest(column: pa.Array) -> bytes:
    """Reads only within the buffers, however wrong offsets and lengths are.

    Raises:
        ArrowInvalid: the buffers are too small for the column's length.
    """
    if column.offset:
        column = pa.concat_arrays([column])
    validity, *buffers = column.buffers()
    if validity is not None and validity.size * 8 < len(column):  # Arrow would count nulls beyond the buffer.
        raise pa.ArrowInvalid("a column is cut short (nulls)")
    digest = hashlib.sha256(f"{column.type} {len(column)} {column.null_count} ".encode())
    try:
        if column.null_count:
            present = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(column), bitorder="little")
            digest.update(np.packbits(present).tobytes())
        if not len(column):
            return digest.digest()[:_BYTES]
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            digest.update(_first(buffers[0], len(column) * column.type.bit_width // 8))
            return digest.digest()[:_BYTES]
        kind = np.int64 if pa.types.is_large_string(column.type) else np.int32
        offsets = np.frombuffer(_first(buffers[0], (len(column) + 1) * np.dtype(kind).itemsize), kind)
        # The offsets of a slice begin with 0 once it is written.
        first, last = int(offsets[0]), int(offsets[-1])
        digest.update((offsets - offsets[0]).tobytes())
        if pa.types.is_list(column.type):
            if not 0 <= first <= last <= len(column.values):
                raise ValueError(f"{last:,} values are needed")
            digest.update(_digest(column.values.slice(first, last - first)))
        else:
            digest.update(_first(buffers[1], last)[max(0, first) :])
    except (ValueError, TypeError) as error:
        raise pa.ArrowInvalid(f"a column is cut short ({error})") from None
    return digest.digest()[:_BYTES]


def _first(buffer: pa.Buffer | None, size: int) -> memoryview:
    content = memoryview(buffer if buffer is not None else b"")[:size] if size >= 0 else memoryview(b"")
    if len(content) != size:
        raise ValueError(f"{size:,} bytes are needed")
    return content
