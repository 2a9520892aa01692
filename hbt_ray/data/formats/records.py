"""Records of a file or a folder of files in any of the formats of `FORMATS`, told apart by their names.

All are streamed, Parquet batch by batch. No type is guessed from what a text looks like: cells of CSV and TSV are
texts, and values of Parquet keep their stored types. A row of texts cannot hold dates, decimals or bytes, and some of
them have no Python form (a date in the year 200,000): each becomes an `UnsupportedValue`, which the readers reject by
name. A file that is damaged, has no rows or lacks a column raises `SourceError`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.data.formats.files import (
    MAX_LINE_BYTES,
    DataFile,
    data_files,
    naming_read_errors,
    raw_lines,
    unpacked_name,
)
from hbt_ray.data.formats.json_records import read_json_records, read_jsonl
from hbt_ray.data.formats.source_row import (
    BadRow,
    BadRowError,
    Record,
    UnsupportedValue,
    has_surrogate,
    missing_columns,
    parse_rows,
)
from hbt_ray.errors import SourceError
from hbt_ray.storage.object_store import filesystem, without_options

FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv, also packed as .gz, .bz2, .xz or .zst, and .parquet"
_JSON_LINES, _SEPARATED, _PARQUET = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".parquet", ".pq")
_DATASETS_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that Hugging Face `datasets` writes beside its data."""
_PART_ROWS = 100_000
"""Smallest part of a Parquet file in rows: a smaller one is not worth a task of its own."""
_BATCH_ROWS = 10_000
_NOT_UTF8 = UnsupportedValue("no UTF-8")
ColumnSelector = Collection[str] | Callable[[Collection[str]], Collection[str]]
"""The columns to read, or a function that chooses them among those of a file; it may raise `ValueError`."""


class FilePart(NamedTuple):
    """A file, or some row groups of a Parquet file."""

    file: DataFile
    row_groups: range | None = None

    @property
    def location(self) -> str:
        return self.file.location

    def records(self, columns: ColumnSelector) -> Iterator[Record | BadRow]:
        """The records of the part. Of Parquet files only `columns` are read, of others all values."""
        suffix = _suffix(self.location)
        if self.row_groups is not None:
            records = _read_parquet(self.file, columns, self.row_groups)
        elif suffix in _SEPARATED:
            records = _read_separated(self.file, columns, "\t" if suffix == ".tsv" else ",")
        else:
            records = read_jsonl(self.location) if suffix in _JSON_LINES else read_json_records(self.location)
        if not self.file.partition:
            return records
        partition = dict(self.file.partition)
        # A column of the file takes precedence over one of the folder's name.
        return parse_rows(lambda record: Record(record.where, {**partition, **record.values}), records)


def file_parts(location: str) -> list[FilePart]:
    """Cut a file of `FORMATS`, or the files of a folder, into parts that can be read in parallel."""
    parts: list[FilePart] = []
    for file in data_files(location, _is_readable, FORMATS):
        if _suffix(file.location) not in _PARQUET:
            parts.append(FilePart(file))
            continue
        with _open_parquet(file.location) as parquet:
            metadata = parquet.metadata
        # First row group of the current part, and its rows so far.
        begin = num_rows = 0
        for group in range(metadata.num_row_groups):
            num_rows += metadata.row_group(group).num_rows
            if num_rows >= _PART_ROWS:
                parts.append(FilePart(file, range(begin, group + 1)))
                begin, num_rows = group + 1, 0
        # A file without rows stays a part, so that reading it raises an error.
        if num_rows or not metadata.num_rows:
            parts.append(FilePart(file, range(begin, metadata.num_row_groups)))
    return parts


def read_records(location: str, columns: ColumnSelector) -> Iterator[Record | BadRow]:
    """All records of a file or of a folder of files, whose columns may differ."""
    for part in file_parts(location):
        yield from part.records(columns)


def _suffix(location: str) -> str:
    """`a/Rows.JSONL.gz` → `.jsonl`."""
    file = unpacked_name(without_options(location).lower().rpartition("/")[2])
    return file[file.rfind(".") :] if "." in file else ""


def _is_readable(file: str) -> bool:
    if file in _DATASETS_METADATA:
        return False
    return file.endswith(_PARQUET) or _suffix(file) in (*_JSON_LINES, *_SEPARATED, ".json")


def _select_columns(file: DataFile, columns: ColumnSelector, names: Collection[str]) -> list[str]:
    """The columns to read, in the file's order; raises `SourceError` if one is missing or occurs twice."""
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
    # Columns of the folder's name are not in the file.
    return [column for column in names if column in selected]


# --- Separated values -------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    where: str
    cells: list[str]


def _read_separated(file: DataFile, columns: ColumnSelector, separator: str) -> Iterator[Record | BadRow]:
    """Records of CSV (RFC 4180) or TSV, whose first line names the columns; all cells are texts."""
    location = file.location
    # surrogateescape: bytes that are not UTF-8 cost only their own row, which `parse` rejects.
    numbered = ((f"{location}:{n}", raw.decode("utf-8", "surrogateescape")) for n, raw in raw_lines(location))
    place, first = next(numbered, ("", ""))
    if not first.strip():
        raise SourceError(
            f"{location}: the file is empty, or its first line is, which should name the columns", code="EMPTY_FILE"
        )
    if separator == "," and "," not in first and ";" in first:
        separator = ";"  # Spreadsheets write it where numbers have a decimal comma.
    rows = (_tsv_rows if separator == "\t" else _csv_rows)(chain([(place, first)], numbered), separator)
    header = next(rows, BadRow(place, "all its cells are empty"))
    if isinstance(header, BadRow):
        raise SourceError(f"{place}: no header of separated values ({header.reason})", code="NO_HEADER")
    names = header.cells
    _select_columns(file, columns, names)
    # Checked before the first row is yielded: a file without rows is an error.
    if (first_row := next(rows, None)) is None:
        raise SourceError(f"{location}: the file has no rows", code="NO_ROWS")

    def parse(row: _Row) -> Record:
        if len(row.cells) != len(names):
            raise BadRowError(row.where, "another number of cells than the header has")
        # `isascii` is fast and spares most cells the search.
        if any(not cell.isascii() and has_surrogate(cell) for cell in row.cells):
            raise BadRowError(row.where, "no UTF-8 text")
        return Record(row.where, dict(zip(names, row.cells, strict=True)))

    yield from parse_rows(parse, chain([first_row], rows))


def _csv_rows(lines: Iterator[tuple[str, str]], separator: str) -> Iterator[_Row | BadRow]:
    places: list[str] = []  # Lines of the current row: quoted cells may run over several.

    def texts() -> Iterator[str]:
        for place, text in lines:
            places.append(place)
            yield text

    # The default limit of 131,072 characters per cell is too small for long passages.
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # A stray quotation mark may have taken in more lines than its own: all are lost.
            yield from (BadRow(place, f"no valid CSV ({error})") for place in places)
        else:
            if cells and any(map(str.strip, cells)):
                yield _Row(places[0], cells)
        places.clear()


def _tsv_rows(lines: Iterator[tuple[str, str]], separator: str) -> Iterator[_Row | BadRow]:
    """Rows of TSV, one per line; quotation marks have no meaning unless they enclose a whole cell."""
    for place, text in lines:
        if text.strip():
            yield _Row(place, [_unquoted(cell) for cell in text.rstrip("\r\n").split(separator)])


def _unquoted(cell: str) -> str:
    # Within a quoted cell a quotation mark is doubled; a single one means that the cell is not quoted.
    inner = cell[1:-1].replace('""', "")
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if is_quoted else cell


# --- Parquet ----------------------------------------------------------------------------------------------------------


@contextmanager
def _open_parquet(location: str) -> Iterator[pq.ParquetFile]:
    with naming_read_errors(location):
        system, path = filesystem(location)
        with system.open_input_file(path) as stream:
            try:
                file = pq.ParquetFile(stream)
            except (pa.ArrowException, OSError) as error:
                reason = " ".join(str(error).split())[:300]
                raise SourceError(f"{location}: no readable Parquet file ({reason})", code="INVALID_PARQUET") from None
            yield file


def _read_parquet(file: DataFile, columns: ColumnSelector, row_groups: range) -> Iterator[Record | BadRow]:
    """Records of some row groups of a Parquet file, with the selected columns."""
    location = file.location
    with _open_parquet(location) as parquet:
        selected = _select_columns(file, columns, parquet.schema_arrow.names)
        if parquet.metadata.num_rows == 0:
            raise SourceError(f"{location}: the file has no rows", code="NO_ROWS")
        # Number of the first row of these row groups in the file.
        number = sum(parquet.metadata.row_group(group).num_rows for group in range(row_groups.start))
        if not selected:  # Arrow gives no batches without columns.
            num_rows = sum(parquet.metadata.row_group(group).num_rows for group in row_groups)
            yield from (Record(f"{location}: row {n}", {}) for n in range(number, number + num_rows))
            return
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=list(row_groups), columns=selected):
            values = [_python_values(batch.column(name)) for name in selected]
            # From columns to rows.
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
        # One object for all rows; null stays null.
        unsupported = UnsupportedValue(str(column.type))
        return [unsupported if valid else None for valid in column.is_valid().to_pylist()]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        # One bad text fails the whole column; value by value only that text is lost.
        return [_python_value(column, row) for row in range(len(column))]


def _python_value(column: pa.Array, row: int) -> Any:
    try:
        return column[row].as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _is_supported(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_is_supported(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_supported(kind.value_type)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind)
    return bool(is_text or is_number or types.is_boolean(kind) or types.is_null(kind))
