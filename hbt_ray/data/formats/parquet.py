"""Rows of Parquet files as Python values: texts, numbers, and lists and structs of them.

Dates, decimals, binary and the like have no place in a row of texts, and some of their values have no Python form (a
date in the year 200,000): each is an `OtherType`, which the readers refuse by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.errors import SourceError
from hbt_ray.storage.location import filesystem

_BATCH_ROWS = 10_000


class OtherType(NamedTuple):
    """A value of a type that no row has."""

    type: str


@contextmanager
def open_parquet(location: str) -> Iterator[pq.ParquetFile]:
    """Raises: SourceError if it is no Parquet file; errors of its file system."""
    system, path = filesystem(location)
    with system.open_input_file(path) as stream:
        try:
            file = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            reason = " ".join(str(error).split())[:300]
            raise SourceError(f"{location}: no readable Parquet file ({reason})") from None
        yield file


def parquet_rows(
    file: pq.ParquetFile, columns: Sequence[str], row_groups: range
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Number and values of each row; None for one whose bytes are no UTF-8."""
    number = sum(file.metadata.row_group(group).num_rows for group in range(row_groups.start))
    if not columns:  # Without columns Arrow gives no batches.
        for place in range(number, number + sum(file.metadata.row_group(group).num_rows for group in row_groups)):
            yield place, {}
        return
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(row_groups), columns=columns):
        values = [_values(batch.column(name)) for name in columns]
        for row in zip(*values, strict=True):
            bad = any(value is _NOT_UTF8 for value in row)
            yield number, None if bad else dict(zip(columns, row, strict=True))
            number += 1


_NOT_UTF8 = OtherType("no UTF-8")


def _values(column: pa.Array) -> list[Any]:
    if isinstance(column.type, pa.ExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _readable(column.type):
        other = OtherType(str(column.type))
        return [other if valid else None for valid in column.is_valid().to_pylist()]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_one(column, row) for row in range(len(column))]


def _one(column: pa.Array, row: int) -> Any:
    try:
        return column[row].as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _readable(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return all(_readable(kind.field(number).type) for number in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _readable(kind.value_type)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_text or is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind))
