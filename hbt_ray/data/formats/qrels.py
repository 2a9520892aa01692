"""Judgements: which document answers which question, and how well; with both corpora they make rows.

A file of judgements is text, a line a judgement, or JSON lines. Text has three columns (question, document, relevance)
or TREC's four (question, iteration, document, relevance), with or without a header. A header may have the columns in
any order, and spells them `query-id corpus-id score`, `query_id doc_id relevance` or in another way of `_NAMES`.

Relevance is a grade, a whole number: a document is right from 1 on. Where it is a fraction, such as a similarity, only
the user can say from which value on a document is right: `graded` needs a threshold then.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from hbt_ray.data.formats.corpus import Entry, pick
from hbt_ray.data.formats.files import Line, lines
from hbt_ray.data.formats.records import Record, jsonl, texts
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import without_options

_NAMES = {
    "question_id": {"query_id", "queryid", "query", "qid", "question_id", "topic_id", "topic"},
    "document_id": {"corpus_id", "corpusid", "doc_id", "docid", "docno", "document_id", "passage_id", "pid"},
    "relevance": {"score", "relevance", "relevancy", "rel", "label", "grade"},
}
"""Use → names of its column, in lower case and with `_` for `-` and spaces."""
_FORMS = (
    "the columns of judgements are query-id, corpus-id, score (BEIR), query_id, doc_id, relevance, or TREC's "
    "four: question id, iteration, document id, relevance"
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
Threshold = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
"""Setting of sources and tasks, see `graded`."""
MAX_GRADE = 1_000_000
"""Sums of greater gains would lose digits; no file has such grades."""


class Judgement(NamedTuple):
    where: str
    question_id: str
    document_id: str
    relevance: float = 1.0

    @property
    def relevant(self) -> bool:
        return self.relevance >= 1


@dataclass(frozen=True)
class _Columns:
    """Where a line holds what."""

    count: int
    question: int
    document: int
    relevance: int
    tab: bool

    def judgement(self, line: Line) -> Judgement | BadRow:
        fields = _fields(line.text, tab=self.tab)
        if len(fields) != self.count:
            return BadRow(line.where, f"has not as many columns as the lines before; {_FORMS}")
        return judgement(line.where, fields[self.question], fields[self.document], fields[self.relevance])


def judgement(where: str, question_id: str, document_id: str, relevance: Any) -> Judgement | BadRow:
    """One judgement, its relevance a number or the text of one."""
    if isinstance(relevance, str) and _NUMBER.fullmatch(relevance.strip()):
        relevance = float(relevance)
    if isinstance(relevance, bool) or not isinstance(relevance, int | float):
        return BadRow(where, "relevance is no number")
    if not abs(relevance) <= MAX_GRADE:
        return BadRow(where, f"relevance is no number, or beyond {MAX_GRADE:,}")
    return Judgement(where, question_id, document_id, float(relevance))


def judgements(location: str) -> Iterator[Judgement | BadRow]:
    """All judgements of a file: text, or JSON lines where its name says so.

    Raises:
        SourceError: columns that are unknown, or see `lines`.
    """
    if ".jsonl" in without_options(location).rpartition("/")[2]:
        yield from map(_of_record, jsonl(location))
        return
    columns: _Columns | None = None
    for line in lines(location):
        if isinstance(line, BadRow):
            yield line
        elif columns:
            yield columns.judgement(line)
        elif header := _header(line):
            columns = header
        elif columns := _without_header(line):
            yield columns.judgement(line)
        else:  # To read on would be to guess what the columns hold.
            raise SourceError(f"{line.where}: neither a known header nor a judgement; {_FORMS}", code="QRELS_COLUMNS")


def _fields(text: str, *, tab: bool) -> list[str]:
    """Ids may hold spaces where tabs separate them."""
    return text.split("\t") if tab else text.split()


def _use(column: str) -> str | None:
    plain = re.sub(r"[\s-]+", "_", column.strip().strip('"').lower())
    return next((use for use, names in _NAMES.items() if plain in names), None)


def _header(line: Line) -> _Columns | None:
    tab = "\t" in line.text
    uses = [_use(field) for field in _fields(line.text, tab=tab)]
    if any(uses.count(use) != 1 for use in _NAMES):
        return None
    question, document, relevance = (uses.index(use) for use in _NAMES)
    return _Columns(len(uses), question, document, relevance, tab)


def _without_header(line: Line) -> _Columns | None:
    tab = "\t" in line.text
    fields = _fields(line.text, tab=tab)
    if tab and len(fields) not in (3, 4):  # TREC's columns are separated by any white space.
        tab, fields = False, line.text.split()
    if len(fields) not in (3, 4) or not _NUMBER.fullmatch(fields[-1].strip()):
        return None
    return _Columns(len(fields), 0, len(fields) - 2, len(fields) - 1, tab)


def _of_record(record: Record | BadRow) -> Judgement | BadRow:
    if isinstance(record, BadRow):
        return record
    columns = {use: column for column in record.values if (use := _use(column))}
    if columns.keys() != _NAMES.keys():
        return BadRow(record.where, f"lacks a column; {_FORMS}")
    return judgement_of(record, columns)


def judgement_of(record: Record, columns: Mapping[str, str]) -> Judgement | BadRow:
    """The judgement of a record; `columns`: question_id, document_id, relevance → name of the column."""
    ids = texts(
        record, {use: columns[use] for use in ("question_id", "document_id")}, numbers=("question_id", "document_id")
    )
    if isinstance(ids, BadRow):
        return ids
    return judgement(record.where, ids["question_id"], ids["document_id"], record.values[columns["relevance"]])


def graded(found: Iterable[Judgement | BadRow], threshold: float | None = None) -> Iterator[Judgement | BadRow]:
    """The same with whole grades; with a threshold, 1 where the relevance reaches it and else 0."""
    for one in found:
        if isinstance(one, BadRow):
            yield one
        elif threshold is not None:
            yield one._replace(relevance=float(one.relevance >= threshold))
        elif one.relevance.is_integer():
            yield one
        else:
            yield BadRow(one.where, "relevance is a fraction; state from which on a document is right: threshold=…")


def positives(found: Iterable[Judgement | BadRow]) -> Generator[BadRow, None, list[Judgement]]:
    """Return the judgements that say yes; yield what cannot be read, is repeated, or contradicts another."""
    first: dict[tuple[str, str], Judgement | None] = {}
    for one in graded(found):
        if isinstance(one, BadRow):
            yield one
            continue
        pair = (one.question_id, one.document_id)
        known = first.setdefault(pair, one)
        if known is one:
            continue
        if known is not None and known.relevance == one.relevance:
            yield BadRow(one.where, "the judgement stands twice")
        else:
            first[pair] = None
            yield BadRow(one.where, "the same question and document are judged twice, and not alike")
    return [one for one in first.values() if one is not None and one.relevant]


def join(
    judgements: Sequence[Judgement],
    questions: Iterable[Entry | BadRow],
    documents: Iterable[Entry | BadRow],
    language: str,
    prefix: str = "",
) -> Iterator[SourceRow | BadRow]:
    """One row a judgement; its item is `<prefix><question id>/<document id>`.

    Both corpora are read once; the judgements and what they name of the corpora are held in memory.
    """
    question_texts = yield from pick(questions, {one.question_id for one in judgements})
    document_texts = yield from pick(documents, {one.document_id for one in judgements})
    for one in judgements:
        question, document = question_texts.get(one.question_id, ""), document_texts.get(one.document_id, "")
        if question is None or document is None:
            yield BadRow(one.where, "the judged question or document stands twice, with different texts")
        elif one.question_id not in question_texts:
            yield BadRow(one.where, "the judged question is not among the questions")
        elif one.document_id not in document_texts:
            yield BadRow(one.where, "the judged document is not in the corpus")
        else:
            yield SourceRow(
                item_id=f"{prefix}{one.question_id}/{one.document_id}",
                language=language,
                question=question,
                passage=document,
                passage_id=f"{prefix}{one.document_id}",
                question_id=f"{prefix}{one.question_id}",
                where=one.where,
            )
