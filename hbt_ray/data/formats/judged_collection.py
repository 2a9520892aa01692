"""Judged collections: documents, queries and judgements of relevance (qrels), as IR benchmarks publish them.

A collection is a set of streams, each read once. `relevant_rows` makes training rows of it; an evaluation makes a task.

BEIR (Thakur et al. 2021, arXiv 2104.08663), as published by beir-cellar/beir and mteb: `corpus.jsonl` with
`{"_id", "title", "text"}`, `queries.jsonl` with `{"_id", "text"}` and `qrels/<split>.tsv`.

MIRACL (Zhang et al. 2023), as published in miracl/miracl and miracl/miracl-corpus:
`miracl-v1.0-<language>/topics/topics.miracl-v1.0-<language>-<split>.tsv` (id, tab, query), `…/qrels/qrels.…tsv` in
TREC's four columns, and `miracl-corpus-v1.0-<language>/docs-*.jsonl.gz` with `{"docid", "title", "text"}`. Each
language has queries and a corpus of its own: query 0 of one is not query 0 of another.

All files may be packed. A missing file raises `SourceError`.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from typing import NamedTuple

from hbt_ray.data.formats.files import Line, by_language, first_match, lines, matching_files
from hbt_ray.data.formats.json_records import read_jsonl
from hbt_ray.data.formats.qrels import Judgement, read_judgements, whole_grades
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record, SourceRow, parse_rows, text_values
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import join_location

_ID_COLUMNS = ("_id", "id", "docid", "doc_id", "docno", "corpus_id", "query_id", "qid")
"""Columns of the id in BEIR, mteb, MIRACL and ir_datasets; the first one that is present is used."""


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
    """Prefix of all ids; keeps equal ids of different languages apart."""


def read_beir(folder: str, split: str, language: str) -> JudgedCollection:
    """The collection of a BEIR folder, all of it in one language."""
    qrels = (f"qrels/{escape(split)}.{suffix}" for suffix in ("tsv", "jsonl", "txt"))
    return JudgedCollection(
        language,
        documents=read_json_entries(first_match(folder, "corpus.jsonl")),
        queries=read_json_entries(first_match(folder, "queries.jsonl")),
        judgements=read_judgements(first_match(folder, *qrels)),
    )


def read_miracl(folder: str, corpus: str, split: str, languages: Collection[str] = ()) -> list[JudgedCollection]:
    """The collections of a MIRACL folder, one a language; ids get the prefix `<language>_`.

    Args:
        folder: folder of the topics and the qrels.
        corpus: folder with `miracl-corpus-v1.0-<language>`.
        languages: keep only these; empty: all.
    """
    prefix, suffix = "miracl-v1.0-", f"-{split}.tsv"
    topics = matching_files(folder, f"{prefix}*/topics/topics.{prefix}*{escape(suffix)}")
    # `miracl-v1.0-<code>/topics/…`: the folder's name gives the language code.
    topics_by_code = {file.partition("/")[0].removeprefix(prefix): topics[file] for file in topics}
    collections = []
    for tag, code in by_language({code: code for code in topics_by_code}, languages, f"{folder}, {split}").items():
        qrels = join_location(folder, f"{prefix}{code}/qrels")
        try:
            documents = read_miracl_corpus(join_location(corpus, f"miracl-corpus-v1.0-{code}"))
        except SourceError as error:
            raise SourceError(
                f"{error}; download it from miracl/miracl-corpus, say with corpus= where the corpora are, or keep only "
                "the languages that have one with languages=",
                code="NO_CORPUS",
            ) from None
        queries = read_tsv_entries(topics_by_code[code])
        judgements = read_judgements(first_match(qrels, f"qrels.{prefix}{escape(code + suffix)}"))
        collections.append(JudgedCollection(tag, documents, queries, judgements, prefix=f"{tag}_"))
    return collections


def read_miracl_corpus(location: str) -> Iterator[TextEntry | BadRow]:
    """Documents of a file, or of a folder of `.jsonl` files."""
    return read_json_entries(*matching_files(location, "*.jsonl").values())


def read_json_entries(*locations: str) -> Iterator[TextEntry | BadRow]:
    """Documents or queries of JSON lines: an id, a `text` and perhaps a `title`, which comes before the text."""
    for location in locations:
        yield from parse_rows(_entry, read_jsonl(location))


def _entry(record: Record) -> TextEntry:
    id_column = next((column for column in _ID_COLUMNS if column in record.values), "")
    if not id_column or "text" not in record.values:
        problem = "no 'text'" if id_column else "no id"
        raise BadRowError(record.where, f"{problem}; every line needs 'text' and one of {', '.join(_ID_COLUMNS)}")
    columns = {"id": id_column, "title": "title", "text": "text"}
    # A missing title counts as an empty one.
    values = text_values(Record(record.where, {"title": "", **record.values}), columns, numbers=("id",))
    return TextEntry(record.where, values["id"], f"{values['title']} {values['text']}".strip())


def read_tsv_entries(location: str) -> Iterator[TextEntry | BadRow]:
    """Documents or queries of lines of `id<TAB>text`; further tabs belong to the text."""

    def entry(line: Line) -> TextEntry:
        key, tab, text = line.text.partition("\t")
        if not tab:
            raise BadRowError(line.where, "no tab; every line must be id<TAB>text")
        return TextEntry(line.where, key, text)

    return parse_rows(entry, lines(location))


def relevant_rows(collection: JudgedCollection, threshold: float | None = None) -> Iterator[SourceRow | BadRow]:
    """A row for each relevant document of each query; its item id is `<prefix><query id>/<document id>`.

    Memory holds the judgements and the texts that they name, however large the corpus is.

    Args:
        threshold: see `whole_grades`.
    """
    prefix = collection.prefix
    # Judgements come first, because they decide which texts are kept. `yield from` passes bad rows on.
    judgements = yield from relevant_judgements(collection.judgements, threshold)
    queries = yield from _select_texts(collection.queries, {judgement.query_id for judgement in judgements})
    documents = yield from _select_texts(collection.documents, {judgement.document_id for judgement in judgements})
    for where, query_id, document_id, _ in judgements:
        query, document = queries.get(query_id, ""), documents.get(document_id, "")
        # None: the id has two texts. A missing id is checked below.
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
    """Return the judgements of relevance 1 or more; yield a `BadRow` for each unreadable or repeated one."""
    first: dict[tuple[str, str], Judgement | None] = {}  # None: the pair has two grades
    for judgement in whole_grades(judgements, threshold):
        if isinstance(judgement, BadRow):
            yield judgement
            continue
        pair = (judgement.query_id, judgement.document_id)
        # `setdefault` returns the earlier judgement of the pair, or this one if it is the first.
        earlier = first.setdefault(pair, judgement)
        if earlier is judgement:
            continue
        if earlier is not None and earlier.relevance == judgement.relevance:
            yield BadRow(judgement.where, "the judgement stands twice")
        else:
            # Neither of two contradicting judgements is used.
            first[pair] = None
            yield BadRow(judgement.where, "the same question and document are judged twice, and not alike")
    return [judgement for judgement in first.values() if judgement is not None and judgement.relevance >= 1]


def _select_texts(
    entries: Iterable[TextEntry | BadRow], ids: Collection[str]
) -> Generator[BadRow, None, dict[str, str | None]]:
    """Return the texts with these ids; yield a `BadRow` for each unreadable or repeated one.

    Returns:
        Id → text; None if the id has two different texts.
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
