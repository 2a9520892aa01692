"""Records: rows of JSON lines, JSON arrays, CSV, TSV and Parquet as dictionaries, each with its place.

All are streamed, Parquet batch by batch, so memory holds one row, or one row group's pages. No type is guessed from
what a text looks like: cells of CSV are texts, values of JSON and Parquet have the types that they are stored with.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from hbt_ray.data.formats.files import (
    MAX_LINE_BYTES,
    PACKED,
    DataFile,
    Line,
    data_files,
    explained,
    lines,
    opened,
    raw_lines,
    without_mark,
)
from hbt_ray.data.formats.parquet import OtherType, open_parquet, parquet_rows
from hbt_ray.data.formats.source_row import BadRow
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import without_options

FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv, also packed as .gz, .bz2, .xz or .zst, and .parquet"
_LINES, _TABLES, _PARQUET = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".parquet", ".pq")
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside its files."""
_STRETCH_ROWS = 100_000
"""Of a Parquet file: smaller pieces are not worth a task of their own."""
_MAX_EXACT = 2**53
"""Whole numbers up to here are exact as floats."""
_UNUSABLE = "no usable JSON: a key that stands twice, too deep, or a number of thousands of digits"
FLOAT_IDS = "ids are whole numbers that were stored as floats (12.0); they are read as integers (12)"

Wanted = Collection[str] | Callable[[Collection[str]], Collection[str]]
"""The columns that are needed, or a function that chooses them among those of a file; it may raise `ValueError`."""


class Record(NamedTuple):
    where: str
    values: dict[str, Any]


class Stretch(NamedTuple):
    """A file, or some row groups of a Parquet file."""

    file: DataFile
    row_groups: range | None = None

    @property
    def location(self) -> str:
        return self.file.location

    def records(self, columns: Wanted) -> Iterator[Record | BadRow]:
        """Its rows; of Parquet and CSV files these columns."""
        rows = self._rows(columns)
        if not self.file.partition:
            return rows
        partition = dict(self.file.partition)
        return (Record(row.where, {**partition, **row.values}) if isinstance(row, Record) else row for row in rows)

    def _rows(self, columns: Wanted) -> Iterator[Record | BadRow]:
        if self.row_groups is not None:
            return parquet(self.file, columns, self.row_groups)
        kind = _kind(self.location)
        if kind in _TABLES:
            return separated(self.file, columns, "\t" if kind == ".tsv" else ",")
        return jsonl(self.location) if kind in _LINES else _json(self.location)


def stretches(location: str) -> list[Stretch]:
    """A file of `FORMATS`, or a folder of them, cut where it can be read side by side.

    Raises:
        SourceError: there is no such file, or one that is no Parquet file in spite of its name.
    """
    found: list[Stretch] = []
    for file in data_files(location, _readable, FORMATS):
        if _kind(file.location) not in _PARQUET:
            found.append(Stretch(file))
            continue
        with explained(file.location), open_parquet(file.location) as opened_file:
            metadata = opened_file.metadata
        begin = num_rows = 0
        for group in range(metadata.num_row_groups):
            num_rows += metadata.row_group(group).num_rows
            if num_rows >= _STRETCH_ROWS:
                found.append(Stretch(file, range(begin, group + 1)))
                begin, num_rows = group + 1, 0
        if num_rows or not metadata.num_rows:
            found.append(Stretch(file, range(begin, metadata.num_row_groups)))
    return found


def records(location: str, columns: Wanted) -> Iterator[Record | BadRow]:
    """All rows of a file or of a folder of files; their schemas may differ."""
    for stretch in stretches(location):
        yield from stretch.records(columns)


def _kind(location: str) -> str:
    """`a/Rows.JSONL.gz` → `.jsonl`."""
    file = without_options(location).lower().rpartition("/")[2]
    for suffix in PACKED:
        file = file.removesuffix(suffix)
    return file[file.rfind(".") :] if "." in file else ""


def _readable(file: str) -> bool:
    return file not in _ABOUT and (file.endswith(_PARQUET) or _kind(file) in (*_LINES, *_TABLES, ".json"))


# --- JSON -------------------------------------------------------------------------------------------------------------


def jsonl(location: str) -> Iterator[Record | BadRow]:
    """Raises: SourceError as `lines` does; a line that is no JSON object is a bad row."""
    for line in lines(location):
        yield _parse(line) if isinstance(line, Line) else line


def _parse(line: Line) -> Record | BadRow:
    try:
        values = json.loads(line.text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        return BadRow(line.where, f"no valid JSON ({error.msg}); every line must be one JSON object")
    except (ValueError, RecursionError):
        return BadRow(line.where, _UNUSABLE)
    if not isinstance(values, dict):
        return BadRow(line.where, f"a JSON {type(values).__name__}; every line must be one JSON object")
    return Record(line.where, values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _json(location: str) -> Iterator[Record | BadRow]:
    """A `.json` file, or one whose name says nothing: an array of objects, or lines of objects."""
    first = ""
    for _, raw in raw_lines(location):
        first = raw.decode("utf-8", "replace").strip()
        if first:
            break
    if first.startswith("["):
        yield from _array(location)
        return
    if first.startswith("{") and not isinstance(_parse(Line(location, first)), Record) and not first.endswith("}"):
        raise SourceError(
            f"{location}: one JSON object over several lines, where an array or a line for each row is needed; "
            "SQuAD's JSON is read by kind: squad"
        )
    yield from jsonl(location)


class _Decoder(json.JSONDecoder):
    """Goes on after what makes an element unusable, so that the next element can be found."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._pairs, parse_int=self._integer)
        self.usable = True

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        self.usable &= len(values) == len(pairs)
        return values

    def _integer(self, digits: str) -> int:
        self.usable &= len(digits) <= 1000
        return int(digits[:1000])


def _array(location: str) -> Iterator[Record | BadRow]:
    """The elements of a JSON array, one held at a time.

    Raises:
        SourceError: the file is damaged or cut short; what comes after the damage cannot be found.
    """
    decoder = _Decoder()
    with opened(location) as stream:
        text = _Text(stream, location)
        text.take("[")
        number = 0
        while not text.starts_with("]"):
            if number:
                text.take(",")
            decoder.usable = True
            value = text.value(decoder)
            where = f"{location}: element {number}"
            number += 1
            if not decoder.usable:
                yield BadRow(where, _UNUSABLE)
            elif not isinstance(value, dict):
                yield BadRow(where, f"a JSON {type(value).__name__}; every element must be one JSON object")
            else:
                yield Record(where, value)
        text.take("]")
        if not number:
            raise SourceError(f"{location}: the file is empty, an array without elements")
        if text.starts_with(""):
            raise SourceError(f"{location}: no valid JSON (more after the end of the array)")


class _Text:
    """The text of a file, read as far as it is looked at."""

    def __init__(self, stream: io.BufferedReader, location: str) -> None:
        without_mark(stream.peek(4)[:4], location)
        # Bytes that are no UTF-8 become half surrogate pairs, which cost only the row that they stand in.
        self._reader = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        self._location = location
        self._text, self._place, self._ended = "", 0, False

    def starts_with(self, character: str) -> bool:
        """Whether the next character that is no space is this one; with an empty one, whether there is any."""
        while True:
            rest = len(self._text)
            while self._place < rest and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < rest:
                return self._text[self._place] == character if character else True
            if not self._more():
                return False

    def take(self, character: str) -> None:
        if not self.starts_with(character):
            raise self._error(f"no {character!r} where one is needed")
        self._place += 1

    def value(self, decoder: json.JSONDecoder) -> Any:
        if not self.starts_with(""):
            pass  # Said below.
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if len(self._text) - self._place > MAX_LINE_BYTES or not self._more():
                    raise self._error(error.msg) from None
                continue
            except RecursionError:
                raise self._error("nested too deep") from None
            if end < len(self._text) or not self._more():  # A number may go on.
                self._place = end
                return value

    def _more(self) -> bool:
        """Read on, twice as far each time, so that a long value is not parsed too often."""
        if self._ended:
            return False
        self._text = self._text[self._place :]
        self._place = 0
        more = self._reader.read(max(1 << 20, len(self._text)))
        self._ended = not more
        self._text += more
        return not self._ended

    def _error(self, problem: str) -> SourceError:
        near = self._text[self._place : self._place + 40]
        hint = "; is the file cut short?" if self._ended else ""
        return SourceError(f"{self._location}: no valid JSON ({problem}, near {near!r}){hint}")


# --- Separated values -------------------------------------------------------------------------------------------------


def separated(file: DataFile, columns: Wanted, separator: str) -> Iterator[Record | BadRow]:
    """CSV as RFC 4180 has it, or TSV, whose first line names the columns; all cells are texts.

    Raises:
        SourceError: the file is empty, or its header lacks a column.
    """
    location = file.location
    numbered = _decoded(location)
    place, first = next(numbered, ("", ""))
    if not first.strip():
        raise SourceError(f"{location}: the file is empty, or its first line is, which should name the columns")
    if separator == "," and "," not in first and ";" in first:
        separator = ";"  # As spreadsheets write it where the comma is in numbers.
    rows = (_tsv if separator == "\t" else _csv)(chain([(place, first)], numbered), separator)
    header = next(rows)
    if isinstance(header, BadRow):
        raise SourceError(f"{header.where}: no header of separated values ({header.reason})")
    _choose(file, columns, header[1])
    is_empty = True
    for row in rows:
        is_empty = False
        if isinstance(row, BadRow):
            yield row
        elif len(row[1]) != len(header[1]):
            yield BadRow(row[0], "another number of cells than the header has")
        elif any(not cell.isascii() and _has_surrogate(cell) for cell in row[1]):
            yield BadRow(row[0], "no UTF-8 text")
        else:
            yield Record(row[0], dict(zip(header[1], row[1], strict=True)))
    if is_empty:
        raise SourceError(f"{location}: the file has no rows")


def _csv(lines: Iterator[tuple[str, str]], separator: str) -> Iterator[tuple[str, list[str]] | BadRow]:
    read: list[str] = []  # Places of the lines of one row: quoted cells may have several.

    def noted() -> Iterator[str]:
        for place, text in lines:
            read.append(place)
            yield text

    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(noted(), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # A quotation mark may have taken in more lines than its own: all are lost.
            yield from (BadRow(place, f"no CSV ({error})") for place in read)
        else:
            if cells and any(map(str.strip, cells)):
                yield read[0], cells
        read.clear()


def _tsv(lines: Iterator[tuple[str, str]], separator: str) -> Iterator[tuple[str, list[str]] | BadRow]:
    """A line is a row: quotation marks mean nothing but around a whole cell."""
    for place, text in lines:
        if text.strip():
            yield place, [_unquoted(cell) for cell in text.rstrip("\r\n").split(separator)]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if is_quoted else cell


def _decoded(location: str) -> Iterator[tuple[str, str]]:
    for number, raw in raw_lines(location):
        yield f"{location}:{number}", raw.decode("utf-8", "surrogateescape")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def parquet(file: DataFile, columns: Wanted, row_groups: range) -> Iterator[Record | BadRow]:
    """Some columns of a Parquet file.

    Raises:
        SourceError: the file is no Parquet file, is damaged, has no rows, or lacks one of the columns.
    """
    location = file.location
    with explained(location), open_parquet(location) as opened_file:
        names = opened_file.schema_arrow.names
        wanted = _choose(file, columns, names)
        if opened_file.metadata.num_rows == 0:
            raise SourceError(f"{location}: the file has no rows")
        for number, values in parquet_rows(opened_file, wanted, row_groups):
            where = f"{location}: row {number}"
            yield BadRow(where, "no UTF-8 text") if values is None else Record(where, values)


def _choose(file: DataFile, columns: Wanted, names: Collection[str]) -> list[str]:
    """The columns of a file that are to be read, in its order."""
    there = [*names, *(key for key, _ in file.partition)]
    try:
        wanted = columns(there) if callable(columns) else columns
    except ValueError as error:
        raise SourceError(f"{file.location}: {error}") from None
    if missing := sorted(set(wanted) - set(there)):
        raise SourceError(f"{file.location}: {missing_columns(missing, there)}")
    counts = Counter(names)
    if twice := [column for column in wanted if counts[column] > 1]:
        raise SourceError(f"{file.location}: column {twice[0]!r} stands twice; rename one of the two")
    return [column for column in names if column in wanted]


# --- Values -----------------------------------------------------------------------------------------------------------


def texts(
    record: Record,
    columns: Mapping[str, str],
    numbers: Collection[str] = (),
    notes: Counter[str] | None = None,
) -> dict[str, str] | BadRow:
    """Use → text of the column with that use; null is empty, and a whole number is text for the uses in `numbers`.

    Args:
        notes: counts what was read otherwise than it is stored.
    """
    if missing := [column for column in columns.values() if column not in record.values]:
        return BadRow(record.where, missing_columns(missing, record.values))
    found = {}
    for use, column in columns.items():
        value = record.values[column]
        if use in numbers and isinstance(value, int | float) and not isinstance(value, bool):
            whole = _whole(value)
            if notes is not None and isinstance(value, float) and isinstance(whole, str):
                notes[FLOAT_IDS] += 1
            value = whole
        if value is not None and not isinstance(value, str):
            return BadRow(record.where, f"column {column!r} holds a {type_of(value)}, not text")
        found[use] = value or ""
    return found


def _whole(value: int | float) -> Any:
    """Digits of a whole number; as it is if it is none, or too large to be one for certain. NaN is null in pandas."""
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else value
    if value != value:
        return None
    return str(int(value)) if value.is_integer() and abs(value) < _MAX_EXACT else value


def type_of(value: Any) -> str:
    """What a value that cannot be used is called in errors."""
    return value.type if isinstance(value, OtherType) else type(value).__name__


def missing_columns(missing: Collection[str], found: Collection[str]) -> str:
    return (
        f"no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, sorted(found)[:20]))}. "
        "Rename them, or say which column holds what under `columns:`, which sources of your own have"
    )
