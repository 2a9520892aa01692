"""The block: the local batches of some steps as one Arrow table, one row a step.

What a side holds is one array for all the steps, cut by Arrow's own offsets. So a task writes a few long columns, and
the reader's arrays are views of shared memory: nothing is copied and nothing is parsed on the way to the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hbt_ray.data.stream.local import LocalBatch
from hbt_ray.data.stream.tokens import Tokens

_NAMES = ("step", "kind", "dataset", "language")
_ARRAYS = ("items", "passage_keys", "negative_keys")
_SIDES = ("questions", "passages", "negatives")
_PARTS = ("ids", "lengths")


def pack(batches: Sequence[LocalBatch]) -> pa.Table:
    """One row a step."""
    columns: dict[str, Any] = {name: [getattr(batch, name) for batch in batches] for name in _NAMES}
    for name in _ARRAYS:
        columns[name] = _column([getattr(batch, name) for batch in batches])
    for side in _SIDES:
        for part in _PARTS:
            columns[f"{side}.{part}"] = _column([getattr(getattr(batch, side), part) for batch in batches])
    return pa.table(columns)


def unpack(table: pa.Table) -> Iterator[LocalBatch]:
    """The batches, whose arrays are read-only views of the table's memory."""
    for part in table.to_batches():
        columns: dict[str, list[Any]] = {
            name: part.column(name).to_pylist() if name in _NAMES else _cut(part.column(name))
            for name in part.schema.names
        }
        for row in range(part.num_rows):
            fields: dict[str, Any] = {name: columns[name][row] for name in (*_NAMES, *_ARRAYS)}
            for side in _SIDES:
                fields[side] = Tokens(*(columns[f"{side}.{piece}"][row] for piece in _PARTS))
            yield LocalBatch(**fields)


def _column(arrays: list[NDArray[Any]]) -> pa.LargeListArray:
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    return pa.LargeListArray.from_arrays(offsets, np.concatenate(arrays))


def _cut(column: pa.LargeListArray) -> list[NDArray[Any]]:
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()
    return [values[first:last] for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
