"""Judged collections: documents, queries and judgements of relevance (qrels), as IR benchmarks publish them.

A collection is a set of streams, each read once. `relevant_rows` makes training rows of it; an evaluation makes a task.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hbt_ray.data.formats.files import lines
from hbt_ray.data.formats.json_records import read_jsonl
from hbt_ray.data.formats.qrels import Judgement, whole_grades
from hbt_ray.data.formats.source_row import BadRow, Record, SourceRow, text_values

_ID_COLUMNS = ("_id", "id", "docid", "doc_id", "docno", "corpus_id", "query_id", "qid")
"""Names of the id in BEIR, mteb, MIRACL and ir_datasets; the first that a line has counts."""


class TextEntry(NamedTuple):
    """A document or a query."""

    where: str
    id: str
    text: str


@dataclass(frozen=True)
class JudgedCollection:
    """The files of one language, as streams; each is read once."""

    language: str
    documents: Iterable[TextEntry | BadRow]
    queries: Iterable[TextEntry | BadRow]
    judgements: Iterable[Judgement | BadRow]
    prefix: str = ""
    """Prefix of all ids, needed if the ids of several languages clash."""


def read_json_entries(*locations: str) -> Iterator[TextEntry | BadRow]:
    """Documents or queries of JSON lines: an id, a `text` and perhaps a `title`, which comes before the text."""
    for location in locations:
        for record in read_jsonl(location):
            yield _entry(record) if isinstance(record, Record) else record


def _entry(record: Record) -> TextEntry | BadRow:
    id_column = next((column for column in _ID_COLUMNS if column in record.values), "")
    if not id_column or "text" not in record.values:
        problem = "no 'text'" if id_column else "no id"
        return BadRow(record.where, f"{problem}; every line needs 'text' and one of {', '.join(_ID_COLUMNS)}")
    columns = {"id": id_column, "title": "title", "text": "text"}
    values = text_values(Record(record.where, {"title": "", **record.values}), columns, numbers=("id",))
    if isinstance(values, BadRow):
        return values
    return TextEntry(record.where, values["id"], f"{values['title']} {values['text']}".strip())


def read_tsv_entries(location: str) -> Iterator[TextEntry | BadRow]:
    """Documents or queries of lines of `id<TAB>text`; further tabs belong to the text."""
    for line in lines(location):
        if isinstance(line, BadRow):
            yield line
            continue
        key, tab, text = line.text.partition("\t")
        yield TextEntry(line.where, key, text) if tab else BadRow(line.where, "no tab; every line must be id<TAB>text")


def relevant_rows(collection: JudgedCollection, threshold: float | None = None) -> Iterator[SourceRow | BadRow]:
    """A row for each relevant document of each query; its item id is `<prefix><query id>/<document id>`.

    Memory holds the judgements and the texts that they name, however large the corpus is.

    Args:
        threshold: see `whole_grades`.
    """
    prefix = collection.prefix
    judgements = yield from relevant_judgements(collection.judgements, threshold)
    queries = yield from _select_texts(collection.queries, {judgement.query_id for judgement in judgements})
    documents = yield from _select_texts(collection.documents, {judgement.document_id for judgement in judgements})
    for where, query_id, document_id, _ in judgements:
        query, document = queries.get(query_id, ""), documents.get(document_id, "")
        if query is None or document is None:
            yield BadRow(where, "the judged question or document stands twice, with different texts")
        elif query_id not in queries:
            yield BadRow(where, "the judged question is not among the questions")
        elif document_id not in documents:
            yield BadRow(where, "the judged document is not in the corpus")
        else:
            yield SourceRow(
                item_id=f"{prefix}{query_id}/{document_id}",
                language=collection.language,
                question=query,
                passage=document,
                passage_id=f"{prefix}{document_id}",
                question_id=f"{prefix}{query_id}",
                where=where,
            )


def relevant_judgements(
    judgements: Iterable[Judgement | BadRow], threshold: float | None = None
) -> Generator[BadRow, None, list[Judgement]]:
    """Return the judgements of relevance 1 or more; yield what cannot be read, is repeated, or contradicts another."""
    first: dict[tuple[str, str], Judgement | None] = {}  # None: the pair has two grades
    for judgement in whole_grades(judgements, threshold):
        if isinstance(judgement, BadRow):
            yield judgement
            continue
        pair = (judgement.query_id, judgement.document_id)
        earlier = first.setdefault(pair, judgement)
        if earlier is judgement:
            continue
        if earlier is not None and earlier.relevance == judgement.relevance:
            yield BadRow(judgement.where, "the judgement stands twice")
        else:
            first[pair] = None
            yield BadRow(judgement.where, "the same question and document are judged twice, and not alike")
    return [judgement for judgement in first.values() if judgement is not None and judgement.relevance >= 1]


def _select_texts(
    entries: Iterable[TextEntry | BadRow], ids: Collection[str]
) -> Generator[BadRow, None, dict[str, str | None]]:
    """Return the texts with these ids; yield what cannot be read or stands twice.

    Returns:
        Id → text, or None if the id has two texts, so that it is unclear which of them is meant.
    """
    texts: dict[str, str | None] = {}
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
        elif entry.id in ids:
            if entry.id not in texts:
                texts[entry.id] = entry.text
            elif texts[entry.id] == entry.text:
                yield BadRow(entry.where, "id stands twice in the corpus, with the same text")
            else:
                texts[entry.id] = None
                yield BadRow(entry.where, "id stands twice in the corpus, with different texts")
    return texts
