"""Documents to index: rows with doc_id, language and text, in any format that `hbt prepare` reads as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.formats.records import Record, records, texts
from hbt_ray.data.formats.source_row import unstorable_reason
from hbt_ray.errors import SourceError, TaskError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.retrieval.tasks.task import DOCUMENTS, table_of


def read_documents(path: Path, languages: Sequence[str] = ()) -> pa.Table:
    """Columns doc_id, language, text; with `languages` only these.

    Ids and texts are read as they are stored: nothing is made of a text that looks like a number or a date.

    Raises:
        TaskError: no file or of another format, columns that are missing, an empty value, an id twice, an unknown
            language, or nothing that is left.
    """
    try:
        table = table_of(_rows(path), DOCUMENTS, str(path))
    except SourceError as error:
        raise TaskError(str(error), code=error.code) from None
    for name in DOCUMENTS.names:
        empty = pc.equal(pc.utf8_trim_whitespace(table[name]), "")
        if count := pc.sum(empty).as_py():
            at = pc.index(empty, True).as_py()
            raise TaskError(f"{path}: {name} is empty in {count} rows, the first is row {at + 1}; remove these rows")
    table = table.set_column(1, DOCUMENTS.field("language"), [_canonical(path, table["language"])])
    if languages:
        table = table.filter(
            pc.is_in(table["language"], value_set=pa.array(map(normalise_tag, languages), pa.string()))
        )
    if not len(table):
        raise TaskError(f"{path}: has no documents{' in ' + ', '.join(languages) if languages else ''}")
    if len(table["doc_id"].unique()) < len(table):
        raise TaskError(f"{path}: some doc_id occur twice; ids must be unique over all languages")
    return table


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    columns = {name: name for name in DOCUMENTS.names}
    for record in records(str(path), DOCUMENTS.names):
        found = texts(record, columns, numbers=("doc_id",)) if isinstance(record, Record) else record
        if not isinstance(found, dict):
            raise TaskError(f"{found.where}: {found.reason}; repair or remove the row")
        row = tuple(found[name] for name in DOCUMENTS.names)
        if problem := next(filter(None, map(unstorable_reason, row)), ""):
            raise TaskError(f"{record.where}: holds {problem}; repair or remove the row")
        yield row


def _canonical(path: Path, tags: pa.ChunkedArray) -> pa.Array:
    known = {}
    for tag in tags.unique().to_pylist():
        try:
            known[tag] = normalise_tag(tag)
        except ValueError as error:
            raise TaskError(f"{path}: {error}") from None
    return pa.array([known[tag] for tag in tags.to_pylist()], pa.string())
