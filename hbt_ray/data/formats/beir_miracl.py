"""The folders of BEIR and MIRACL as judged collections.

BEIR (Thakur et al. 2021, arXiv 2104.08663), as published by beir-cellar/beir and mteb: `corpus.jsonl` with
`{"_id", "title", "text"}`, `queries.jsonl` with `{"_id", "text"}` and `qrels/<split>.tsv`.

MIRACL (Zhang et al. 2023), as published in miracl/miracl and miracl/miracl-corpus:
`miracl-v1.0-<language>/topics/topics.miracl-v1.0-<language>-<split>.tsv` (id, tab, query), `…/qrels/qrels.…tsv` in
TREC's four columns, and `miracl-corpus-v1.0-<language>/docs-*.jsonl.gz` with `{"docid", "title", "text"}`. Topics and
qrels may also be two tables, `topics.parquet` (lang, split, qid, query) and `qrels.parquet` (lang, split, qid, docid,
relevance). Each language has queries and a corpus of its own: query 0 of one is not query 0 of another.

All text files may be packed (`PACKED`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from pyarrow import fs

from hbt_ray.data.formats.files import (
    JSON_LINES,
    PLAIN_OR_PACKED,
    code_by_language,
    files_of,
    first_of,
    naming_read_errors,
    selected_languages,
)
from hbt_ray.data.formats.judged_collection import JudgedCollection, TextEntry, read_json_entries, read_tsv_entries
from hbt_ray.data.formats.qrels import Judgement, judgement_of, read_judgements
from hbt_ray.data.formats.records import read_records
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record, text_values, without_bad_rows
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import filesystem, join_location

_MIRACL_PREFIX = "miracl-v1.0-"


def read_beir(folder: str, split: str, language: str) -> JudgedCollection:
    """The collection of a BEIR folder, all of it in one language.

    Raises:
        SourceError: a file is missing.
    """
    qrels = (f"qrels/{split}.{suffix}{packed}" for suffix in ("tsv", "jsonl", "txt") for packed in PLAIN_OR_PACKED)
    return JudgedCollection(
        language,
        documents=read_json_entries(first_of(folder, *(f"corpus.jsonl{packed}" for packed in PLAIN_OR_PACKED))),
        queries=read_json_entries(first_of(folder, *(f"queries.jsonl{packed}" for packed in PLAIN_OR_PACKED))),
        judgements=read_judgements(first_of(folder, *qrels)),
    )


def read_miracl_corpus(location: str) -> Iterator[TextEntry | BadRow]:
    """Documents of a file, or of a folder of `.jsonl` files.

    Raises:
        SourceError: there is no such file, or a folder without any.
    """
    return read_json_entries(*files_of(location, *JSON_LINES))


def read_miracl(folder: str, corpus: str, split: str, languages: Collection[str] = ()) -> list[JudgedCollection]:
    """The collections of a MIRACL folder, one a language; ids get the prefix `<language>_`.

    Args:
        folder: with the topics and the qrels.
        corpus: folder with `miracl-corpus-v1.0-<language>`.
        languages: keep only these; empty: all.

    Raises:
        SourceError: a file is missing, a language has no topics or no corpus, or a table has a malformed row.
    """
    has_tables = "topics.parquet" in _names(folder, fs.FileType.File)
    topics = _topics_of_tables(folder, split) if has_tables else _topics_of_folders(folder, split)
    where = f"{folder} (split={split})"
    collections = []
    for language in selected_languages(languages, topics, where):
        code, queries, judgements = topics[language]
        location = join_location(corpus, f"miracl-corpus-v1.0-{code}")
        try:
            documents = read_miracl_corpus(location)
        except SourceError as error:
            raise SourceError(
                f"{error}; download it from miracl/miracl-corpus, say with corpus= where the corpora are, or keep only "
                "the languages that have one with languages=",
                code="NO_CORPUS",
            ) from None
        collections.append(JudgedCollection(language, documents, queries, judgements, prefix=f"{language}_"))
    if not collections:
        raise SourceError(
            f"{where}: holds neither {_MIRACL_PREFIX}<language>/topics of this split nor topics.parquet",
            code="NO_TOPICS",
        )
    return collections


class _Topics(NamedTuple):
    """The queries of one language and their judgements."""

    code: str
    """How the file names spell the language."""
    queries: Iterable[TextEntry | BadRow]
    judgements: Iterable[Judgement | BadRow]


def _names(folder: str, kind: fs.FileType) -> list[str]:
    with naming_read_errors(folder):
        system, path = filesystem(folder)
        return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path)) if info.type == kind)


def _topics_of_folders(folder: str, split: str) -> dict[str, _Topics]:
    by_code = {}
    for name in _names(folder, fs.FileType.Directory):
        if not name.startswith(_MIRACL_PREFIX):
            continue
        topics, qrels = (
            _plain_or_packed(join_location(folder, f"{name}/{part}"), f"{part}.{name}-{split}.tsv")
            for part in ("topics", "qrels")
        )
        if topics and not qrels:
            raise SourceError(
                f"{folder}/{name}: has topics of the split {split!r} and no judgements, qrels/…", code="NO_QRELS"
            )
        if topics:
            code = name.removeprefix(_MIRACL_PREFIX)
            by_code[code] = _Topics(code, read_tsv_entries(topics), read_judgements(qrels))
    return {tag: by_code[code] for tag, code in code_by_language(by_code, folder).items()}


def _plain_or_packed(folder: str, file: str) -> str:
    """The location of the file, plain or packed; empty if there is none."""
    present = _names(folder, fs.FileType.File)
    names = (f"{file}{packed}" for packed in PLAIN_OR_PACKED)
    return next((join_location(folder, name) for name in names if name in present), "")


def _topics_of_tables(folder: str, split: str) -> dict[str, _Topics]:
    queries: dict[str, list[TextEntry]] = defaultdict(list)
    for record, texts in _table_rows(join_location(folder, "topics.parquet"), split, ("qid", "query")):
        queries[texts["lang"]].append(TextEntry(record.where, texts["qid"], texts["query"]))
    judgements: dict[str, list[Judgement | BadRow]] = defaultdict(list)
    columns = {"query_id": "qid", "document_id": "docid", "relevance": "relevance"}
    for record, texts in _table_rows(join_location(folder, "qrels.parquet"), split, ("qid", "docid"), ("relevance",)):
        judgements[texts["lang"]].append(judgement_of(record, columns))
    codes = code_by_language(queries, folder)
    return {tag: _Topics(code, queries[code], judgements[code]) for tag, code in codes.items()}


def _table_rows(
    table: str, split: str, columns: tuple[str, ...], number_columns: tuple[str, ...] = ()
) -> Iterator[tuple[Record, dict[str, str]]]:
    """The records of a split with the texts of their columns; ids may be whole numbers."""
    names = ("lang", "split", *columns)
    for record in without_bad_rows(read_records(table, {*names, *number_columns})):
        if missing := [column for column, value in record.values.items() if value is None]:
            raise BadRowError(record.where, f"no {missing[0]!r}; every row needs a value in every column")
        values = text_values(record, {name: name for name in names}, numbers=("qid", "docid"))
        for texts in without_bad_rows([values]):
            if texts["split"] == split:
                yield record, texts
