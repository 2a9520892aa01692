"""Corpora: id → text, of documents or of questions, as JSON lines or as tab-separated lines."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from typing import NamedTuple

from hbt_ray.data.sources.files import lines
from hbt_ray.data.sources.records import Record, texts
from hbt_ray.data.sources.rows import BadRow


class Entry(NamedTuple):
    where: str
    id: str
    text: str


def documents(records: Iterable[Record | BadRow], id_column: str) -> Iterator[Entry | BadRow]:
    """JSON lines with an id, a `text` and perhaps a `title`, which stands before the text."""
    columns = {"id": id_column, "title": "title", "text": "text"}
    for record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        if missing := [column for column in (id_column, "text") if column not in record.values]:
            yield BadRow(record.where, f"no {missing[0]!r}; every line needs {id_column!r} and 'text'")
            continue
        found = texts(Record(record.where, {"title": "", **record.values}), columns, numbers=("id",))
        if isinstance(found, BadRow):
            yield found
        else:
            yield Entry(record.where, found["id"], f"{found['title']} {found['text']}".strip())


def tab_separated(location: str) -> Iterator[Entry | BadRow]:
    """Lines of `id<TAB>text`; further tabs belong to the text."""
    for line in lines(location):
        if isinstance(line, BadRow):
            yield line
            continue
        key, tab, text = line.text.partition("\t")
        yield Entry(line.where, key, text) if tab else BadRow(line.where, "no tab; every line must be id<TAB>text")


def pick(entries: Iterable[Entry | BadRow], wanted: Collection[str]) -> Generator[BadRow, None, dict[str, str]]:
    """Read a corpus once and return only what is wanted of it; what cannot be read is yielded.

    Memory is that of the wanted texts, however large the corpus.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
        elif entry.id in wanted:
            if entry.id in found:
                yield BadRow(entry.where, "id stands twice in the corpus; the first text is used")
            else:
                found[entry.id] = entry.text
    return found
