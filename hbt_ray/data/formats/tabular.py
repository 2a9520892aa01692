"""Records of CSV, TSV and Parquet files.

All are streamed, Parquet batch by batch. No type is guessed from what a text looks like: cells of CSV and TSV are
texts, and values of Parquet have the types that they are stored with. Dates, decimals, bytes and the like have no place
in a row of texts, and some have no Python form (a date in the year 200,000): each becomes an `UnsupportedValue`, which
the readers reject by name.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.data.formats.files import MAX_LINE_BYTES, DataFile, naming_read_errors, raw_lines
from hbt_ray.data.formats.source_row import BadRow, Record, UnsupportedValue, missing_columns
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import filesystem

ColumnSelector = Collection[str] | Callable[[Collection[str]], Collection[str]]
"""The columns to read, or a function that chooses them among those of a file; it may raise `ValueError`."""
_BATCH_ROWS = 10_000
_NOT_UTF8 = UnsupportedValue("no UTF-8")


def select_columns(file: DataFile, columns: ColumnSelector, names: Collection[str]) -> list[str]:
    """The columns of a file that are to be read, in the file's order.

    Raises:
        SourceError: a column is missing, or a selected one occurs twice.
    """
    available = [*names, *(key for key, _ in file.partition)]
    try:
        selected = columns(available) if callable(columns) else columns
    except ValueError as error:
        raise SourceError(f"{file.location}: {error}", code="COLUMNS") from None
    if missing := sorted(set(selected) - set(available)):
        raise SourceError(f"{file.location}: {missing_columns(missing, available)}", code="COLUMNS")
    counts = Counter(names)
    if repeated := [column for column in selected if counts[column] > 1]:
        raise SourceError(
            f"{file.location}: column {repeated[0]!r} stands twice; rename one of the two", code="COLUMNS"
        )
    return [column for column in names if column in selected]


# --- Separated values -------------------------------------------------------------------------------------------------


def read_separated(file: DataFile, columns: ColumnSelector, separator: str) -> Iterator[Record | BadRow]:
    """Records of CSV (RFC 4180) or TSV, whose first line names the columns; all cells are texts.

    Raises:
        SourceError: the file is empty, or its header lacks a column.
    """
    location = file.location
    numbered = ((f"{location}:{n}", raw.decode("utf-8", "surrogateescape")) for n, raw in raw_lines(location))
    place, first = next(numbered, ("", ""))
    if not first.strip():
        raise SourceError(
            f"{location}: the file is empty, or its first line is, which should name the columns", code="EMPTY_FILE"
        )
    if separator == "," and "," not in first and ";" in first:
        separator = ";"  # Spreadsheets write it where numbers have a decimal comma.
    rows = (_tsv_rows if separator == "\t" else _csv_rows)(chain([(place, first)], numbered), separator)
    header = next(rows, None)
    if header is None or isinstance(header, BadRow):
        reason = header.reason if header else "all its cells are empty"
        raise SourceError(f"{place}: no header of separated values ({reason})", code="NO_HEADER")
    names = header[1]
    select_columns(file, columns, names)
    is_empty = True
    for row in rows:
        is_empty = False
        if isinstance(row, BadRow):
            yield row
        elif len(row[1]) != len(names):
            yield BadRow(row[0], "another number of cells than the header has")
        elif any(not cell.isascii() and _has_surrogate(cell) for cell in row[1]):
            yield BadRow(row[0], "no UTF-8 text")
        else:
            yield Record(row[0], dict(zip(names, row[1], strict=True)))
    if is_empty:
        raise SourceError(f"{location}: the file has no rows", code="NO_ROWS")


def _csv_rows(lines: Iterator[tuple[str, str]], separator: str) -> Iterator[tuple[str, list[str]] | BadRow]:
    places: list[str] = []  # Lines of the current row: quoted cells may run over several.

    def texts() -> Iterator[str]:
        for place, text in lines:
            places.append(place)
            yield text

    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # A stray quotation mark may have taken in more lines than its own: all are lost.
            yield from (BadRow(place, f"no CSV ({error})") for place in places)
        else:
            if cells and any(map(str.strip, cells)):
                yield places[0], cells
        places.clear()


def _tsv_rows(lines: Iterator[tuple[str, str]], separator: str) -> Iterator[tuple[str, list[str]] | BadRow]:
    """A line is a row; quotation marks mean nothing unless they enclose a whole cell."""
    for place, text in lines:
        if text.strip():
            yield place, [_unquoted(cell) for cell in text.rstrip("\r\n").split(separator)]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if is_quoted else cell


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


# --- Parquet ----------------------------------------------------------------------------------------------------------


@contextmanager
def open_parquet(location: str) -> Iterator[pq.ParquetFile]:
    """An open Parquet file.

    Raises:
        SourceError: the file is missing, cannot be read, or is not a Parquet file.
    """
    with naming_read_errors(location):
        system, path = filesystem(location)
        with system.open_input_file(path) as stream:
            try:
                file = pq.ParquetFile(stream)
            except FileNotFoundError:
                raise
            except (pa.ArrowException, OSError) as error:
                reason = " ".join(str(error).split())[:300]
                raise SourceError(f"{location}: no readable Parquet file ({reason})", code="INVALID_PARQUET") from None
            yield file


def read_parquet(file: DataFile, columns: ColumnSelector, row_groups: range) -> Iterator[Record | BadRow]:
    """Records of some row groups of a Parquet file, with the selected columns.

    Raises:
        SourceError: the file is not a Parquet file, is damaged, has no rows, or lacks one of the columns.
    """
    location = file.location
    with open_parquet(location) as parquet:
        selected = select_columns(file, columns, parquet.schema_arrow.names)
        if parquet.metadata.num_rows == 0:
            raise SourceError(f"{location}: the file has no rows", code="NO_ROWS")
        number = sum(parquet.metadata.row_group(group).num_rows for group in range(row_groups.start))
        if not selected:  # Arrow gives no batches without columns.
            num_rows = sum(parquet.metadata.row_group(group).num_rows for group in row_groups)
            yield from (Record(f"{location}: row {n}", {}) for n in range(number, number + num_rows))
            return
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=list(row_groups), columns=selected):
            values = [_python_values(batch.column(name)) for name in selected]
            for row in zip(*values, strict=True):
                where = f"{location}: row {number}"
                number += 1
                if any(value is _NOT_UTF8 for value in row):
                    yield BadRow(where, "no UTF-8 text")
                else:
                    yield Record(where, dict(zip(selected, row, strict=True)))


def _python_values(column: pa.Array) -> list[Any]:
    if isinstance(column.type, pa.ExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_supported(column.type):
        unsupported = UnsupportedValue(str(column.type))
        return [unsupported if valid else None for valid in column.is_valid().to_pylist()]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_python_value(column, row) for row in range(len(column))]


def _python_value(column: pa.Array, row: int) -> Any:
    try:
        return column[row].as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _is_supported(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return all(_is_supported(kind.field(number).type) for number in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_supported(kind.value_type)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_text or is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind))
