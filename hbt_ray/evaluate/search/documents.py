"""Documents to index, from one file: JSON lines or Parquet with doc_id, language and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import TaskError
from hbt_ray.evaluate.tasks.task import DOCUMENTS
from hbt_ray.languages import normalise


def read_documents(path: Path, languages: Sequence[str] = ()) -> pa.Table:
    """Columns doc_id, language, text; with `languages` only these.

    Raises:
        TaskError: no file or of another format, columns that are missing, an empty value, an id twice, an unknown
            language, or nothing that is left.
    """
    table = _read(path)
    if missing := sorted(set(DOCUMENTS.names) - set(table.column_names)):
        raise TaskError(f"{path}: has no column {missing[0]!r}; its columns are {', '.join(table.column_names)}")
    table = table.select(DOCUMENTS.names).cast(DOCUMENTS)
    for name in DOCUMENTS.names:
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(table[name]), ""), True)
        if count := pc.sum(empty).as_py():
            at = pc.index(empty, True).as_py()
            raise TaskError(f"{path}: {name} is empty in {count} rows, the first is row {at + 1}; remove these rows")
    table = table.set_column(1, DOCUMENTS.field("language"), [_canonical(path, table["language"])])
    if languages:
        table = table.filter(pc.is_in(table["language"], value_set=pa.array(map(normalise, languages), pa.string())))
    if not len(table):
        raise TaskError(f"{path}: has no documents{' in ' + ', '.join(languages) if languages else ''}")
    if len(table["doc_id"].unique()) < len(table):
        raise TaskError(f"{path}: some doc_id occur twice; ids must be unique over all languages")
    return table


def _read(path: Path) -> pa.Table:
    import pyarrow.json as pj
    import pyarrow.parquet as pq

    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    try:
        return pq.read_table(path) if path.suffix == ".parquet" else pj.read_json(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TaskError(f"{path}: cannot be read ({error}); give JSON lines (.jsonl) or Parquet (.parquet)") from None


def _canonical(path: Path, tags: pa.ChunkedArray) -> pa.Array:
    known = {}
    for tag in tags.unique().to_pylist():
        try:
            known[tag] = normalise(tag)
        except ValueError as error:
            raise TaskError(f"{path}: {error}") from None
    return pa.array([known[tag] for tag in tags.to_pylist()], pa.string())
