"""Records: JSON lines and Parquet rows as dictionaries, each with its place; what `table` and its like are read from.

JSON lines are streamed line by line, Parquet batch by batch, so memory holds one line, or one row group's pages.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.data.sources.files import Line, explained, files_of, lines
from hbt_ray.data.sources.rows import BadRow
from hbt_ray.data.store.location import filesystem, name
from hbt_ray.errors import SourceError

_STRETCH_ROWS = 100_000
"""Of a Parquet file: smaller pieces are not worth a task of their own."""


class Record(NamedTuple):
    where: str
    values: dict[str, Any]


class Stretch(NamedTuple):
    """A file, or some row groups of a Parquet file."""

    location: str
    row_groups: range | None = None

    def records(self, columns: Collection[str]) -> Iterator[Record | BadRow]:
        """Its rows, as `jsonl` or `parquet` reads them."""
        return jsonl(self.location) if self.row_groups is None else parquet(self.location, columns, self.row_groups)


def stretches(location: str) -> list[Stretch]:
    """A `.jsonl`, `.jsonl.gz` or `.parquet` file, or a folder of them, cut where it can be read side by side.

    Raises:
        SourceError: there is no such file, or one that is no Parquet file in spite of its name.
    """
    found: list[Stretch] = []
    for file in files_of(location, lambda name: name.endswith((".jsonl", ".jsonl.gz", ".parquet"))):
        if not name(file).endswith(".parquet"):
            found.append(Stretch(file))
            continue
        with explained(file):
            metadata = _open(file).metadata
        begin = num_rows = 0
        for group in range(metadata.num_row_groups):
            num_rows += metadata.row_group(group).num_rows
            if num_rows >= _STRETCH_ROWS:
                found.append(Stretch(file, range(begin, group + 1)))
                begin, num_rows = group + 1, 0
        if num_rows or not metadata.num_rows:
            found.append(Stretch(file, range(begin, metadata.num_row_groups)))
    return found


def records(location: str, columns: Collection[str]) -> Iterator[Record | BadRow]:
    """All rows of a file or of a folder of files; their schemas may differ."""
    for stretch in stretches(location):
        yield from stretch.records(columns)


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
        return BadRow(
            line.where, "no usable JSON: a key that stands twice, too deep, or a number of thousands of digits"
        )
    if not isinstance(values, dict):
        return BadRow(line.where, f"a JSON {type(values).__name__}; every line must be one JSON object")
    return Record(line.where, values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def parquet(location: str, columns: Collection[str], row_groups: range) -> Iterator[Record | BadRow]:
    """Some columns of a Parquet file.

    Raises:
        SourceError: the file is no Parquet file, is damaged, has no rows, or lacks one of the columns.
    """
    with explained(location):
        file = _open(location)
        names = file.schema_arrow.names
        if missing := sorted(set(columns) - set(names)):
            raise SourceError(f"{location}: {_missing(missing, names)}")
        if twice := [column for column in columns if names.count(column) > 1]:
            raise SourceError(f"{location}: column {twice[0]!r} stands twice; rename one of the two")
        if file.metadata.num_rows == 0:
            raise SourceError(f"{location}: the file has no rows")
        number = sum(file.metadata.row_group(group).num_rows for group in range(row_groups.start))
        for batch in file.iter_batches(row_groups=list(row_groups), columns=sorted(columns)):
            for values in _values(batch):
                where = f"{location}: row {number}"
                yield BadRow(where, "no UTF-8 text") if values is None else Record(where, values)
                number += 1


def _open(location: str) -> pq.ParquetFile:
    system, path = filesystem(location)
    try:
        return pq.ParquetFile(system.open_input_file(path))
    except pa.ArrowInvalid as error:
        raise SourceError(f"{location}: no readable Parquet file ({error})") from None


def _values(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose bytes are no UTF-8, which Arrow finds out only here."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # raised before any row was given
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


def texts(record: Record, columns: Mapping[str, str], numbers: Collection[str] = ()) -> dict[str, str] | BadRow:
    """Use → text of the column with that use; null is empty, and a whole number is text for the uses in `numbers`."""
    if missing := [column for column in columns.values() if column not in record.values]:
        return BadRow(record.where, _missing(missing, record.values))
    found = {}
    for use, column in columns.items():
        value = record.values[column]
        if isinstance(value, int) and not isinstance(value, bool) and use in numbers:
            value = str(value) if value.bit_length() < 256 else value
        if value is not None and not isinstance(value, str):
            return BadRow(record.where, f"column {column!r} holds a {type(value).__name__}, not text")
        found[use] = value or ""
    return found


def _missing(missing: Collection[str], found: Collection[str]) -> str:
    return (
        f"no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, sorted(found)[:20]))}. "
        "Rename them, or say which column holds what under `columns:`, which sources of your own have"
    )
