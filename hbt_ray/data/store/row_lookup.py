"""Cells: which rows of which units hold the texts of some items, and the way to their values."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hbt_ray.data.index.language_index import LanguageCodes
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.store.columns import ColumnChunk

_ROWS_WORTH_A_TAKE = 16


class ItemRows(NamedTuple):
    """Where items lie."""

    files: list[str]
    batches: list[int]
    """The record batches that hold any of the items, by shard and number."""
    which: Indices
    """Position in these two lists, for each item."""
    rows: Indices
    """Row within the record batch, for each item."""


class RowLookup(NamedTuple):
    """Rows of units, in the order in which somebody wants to see them."""

    units: list[ColumnChunk]
    which: Indices
    rows: Indices


def text_cells(places: ItemRows, side: str, codes: LanguageCodes, languages: tuple[str, ...]) -> RowLookup:
    """Each item's text in its language."""
    combined, which = np.unique(places.which * len(languages) + codes, return_inverse=True)
    pairs = [divmod(number, len(languages)) for number in combined.tolist()]
    units = [ColumnChunk(places.files[at], places.batches[at], f"{side}.{languages[code]}") for at, code in pairs]
    return RowLookup(units, which, places.rows)


def column_cells(places: ItemRows, column: str) -> RowLookup:
    """Each item's value in one column."""
    units = [ColumnChunk(file, batch, column) for file, batch in zip(places.files, places.batches, strict=True)]
    return RowLookup(units, places.which, places.rows)


def pick(arrays: list[pa.Array | None], cells: RowLookup) -> list[Any]:
    """Unit by unit, as joining them would copy them whole."""
    order = np.argsort(cells.which, kind="stable")
    ends = np.searchsorted(cells.which[order], np.arange(len(arrays)), side="right").tolist()
    rows, values, start = cells.rows[order].tolist(), [], 0
    for array, end in zip(arrays, ends, strict=True):
        if array is None:
            values += [None] * (end - start)
        elif end - start < _ROWS_WORTH_A_TAKE:
            values += [array[row].as_py() for row in rows[start:end]]
        else:
            values += array.take(pa.array(rows[start:end])).to_pylist()
        start = end
    picked: list[Any] = [None] * len(values)
    for position, value in zip(order.tolist(), values, strict=True):
        picked[position] = value
    return picked
