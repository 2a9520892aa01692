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

from hbt_ray.data.stream.loader import RankBatch
from hbt_ray.data.stream.tokenise import Tokens

_NAMES = ("step", "kind", "dataset", "language")
_ARRAYS = ("items", "right_keys", "negative_keys", "question_languages", "passage_languages")
_SIDES = ("questions", "passages", "negatives")
_PARTS = ("ids", "lengths")
_VIEW = "view."
"""Before the name of a view, in the name of a column."""
_SCORES = "teacher_scores"


def pack(batches: Sequence[RankBatch]) -> pa.Table:
    """One row a step."""
    columns: dict[str, Any] = {name: [getattr(batch, name) for batch in batches] for name in _NAMES}
    for name in _ARRAYS:
        columns[name] = _column([getattr(batch, name) for batch in batches])
    for side in _SIDES:
        columns |= _tokens(side, [getattr(batch, side) for batch in batches])
    for name in batches[0].views:
        columns |= _tokens(_VIEW + name, [batch.views[name] for batch in batches])
    if batches[0].teacher_scores.shape[1]:
        columns[_SCORES] = _column([batch.teacher_scores for batch in batches])
    return pa.table(columns)


def unpack(table: pa.Table) -> Iterator[RankBatch]:
    """The batches, whose arrays are read-only views of the table's memory."""
    for part in table.to_batches():
        columns: dict[str, list[Any]] = {
            name: part.column(name).to_pylist() if name in _NAMES else _cut(part.column(name))
            for name in part.schema.names
        }
        views = [name.removesuffix(".ids") for name in columns if name.startswith(_VIEW) and name.endswith(".ids")]
        for row in range(part.num_rows):
            fields: dict[str, Any] = {name: columns[name][row] for name in (*_NAMES, *_ARRAYS)}
            tokens = {
                name: Tokens(*(columns[f"{name}.{piece}"][row] for piece in _PARTS)) for name in (*_SIDES, *views)
            }
            fields |= {side: tokens[side] for side in _SIDES}
            fields["views"] = {name.removeprefix(_VIEW): tokens[name] for name in views}
            if _SCORES in columns:
                fields[_SCORES] = columns[_SCORES][row]
            yield RankBatch(**fields)


def _tokens(name: str, texts: list[Tokens]) -> dict[str, pa.LargeListArray]:
    return {f"{name}.{part}": _column([getattr(one, part) for one in texts]) for part in _PARTS}


def _column(arrays: list[NDArray[Any]]) -> pa.LargeListArray:
    """Of arrays of one width, [rows] or [rows, width], one a step."""
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    values = np.concatenate(arrays)
    if values.ndim == 2:
        values = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    return pa.LargeListArray.from_arrays(offsets, values)


def _cut(column: pa.LargeListArray) -> list[NDArray[Any]]:
    offsets = column.offsets.to_numpy()
    values = column.values
    if pa.types.is_fixed_size_list(values.type):
        values = values.values.to_numpy().reshape(-1, values.type.list_size)
    else:
        values = values.to_numpy()
    return [values[first:last] for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
