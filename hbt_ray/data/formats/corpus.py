"""Corpora: id → text, of documents or of questions, as JSON lines or as tab-separated lines."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from typing import NamedTuple

from hbt_ray.data.formats.files import lines
from hbt_ray.data.formats.records import Record, texts
from hbt_ray.data.formats.source_row import BadRow


class Entry(NamedTuple):
    where: str
    id: str
    text: str


_ID_COLUMNS = ("_id", "id", "docid", "doc_id", "docno", "corpus_id", "query_id", "qid")
"""As BEIR, mteb, MIRACL and ir_datasets spell it; the first of them that a line has."""


def documents(records: Iterable[Record | BadRow]) -> Iterator[Entry | BadRow]:
    """JSON lines of documents or questions: an id, a `text` and perhaps a `title`, which stands before the text."""
    for record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        id_column = next((column for column in _ID_COLUMNS if column in record.values), "")
        if not id_column or "text" not in record.values:
            problem = "no 'text'" if id_column else "no id"
            yield BadRow(record.where, f"{problem}; every line needs 'text' and one of {', '.join(_ID_COLUMNS)}")
            continue
        columns = {"id": id_column, "title": "title", "text": "text"}
        entry = texts(Record(record.where, {"title": "", **record.values}), columns, numbers=("id",))
        if isinstance(entry, BadRow):
            yield entry
        else:
            yield Entry(record.where, entry["id"], f"{entry['title']} {entry['text']}".strip())


def tab_separated(location: str) -> Iterator[Entry | BadRow]:
    """Lines of `id<TAB>text`; further tabs belong to the text."""
    for line in lines(location):
        if isinstance(line, BadRow):
            yield line
            continue
        key, tab, text = line.text.partition("\t")
        yield Entry(line.where, key, text) if tab else BadRow(line.where, "no tab; every line must be id<TAB>text")


def pick(entries: Iterable[Entry | BadRow], wanted: Collection[str]) -> Generator[BadRow, None, dict[str, str | None]]:
    """Read a corpus once and return only what is wanted of it; yield what cannot be read or stands twice.

    Memory is that of the wanted texts, however large the corpus.

    Returns:
        Id → text; None where the id stands for two texts, so that nobody knows which of them is meant.
    """
    picked: dict[str, str | None] = {}
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
        elif entry.id in wanted:
            if entry.id not in picked:
                picked[entry.id] = entry.text
            elif picked[entry.id] == entry.text:
                yield BadRow(entry.where, "id stands twice in the corpus, with the same text")
            else:
                picked[entry.id] = None
                yield BadRow(entry.where, "id stands twice in the corpus, with different texts")
    return picked
