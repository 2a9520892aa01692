"""Judgements of relevance (qrels): which document answers which query, and how well.

A file holds lines of text, one judgement each, or JSON lines. Text has three columns (query, document, relevance) or
TREC's four (query, iteration, document, relevance), with or without a header. A header may have the columns in any
order, named `query-id corpus-id score`, `query_id doc_id relevance` or by other names of `_COLUMN_NAMES`.

Relevance is a grade, a whole number: a document is relevant from 1 on. If it is a fraction, such as a similarity, only
the user can give the value from which a document is relevant: `whole_grades` then needs a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from hbt_ray.data.formats.files import Line, lines
from hbt_ray.data.formats.json_records import read_jsonl
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record, parse_rows, text_values
from hbt_ray.errors import SourceError
from hbt_ray.storage.object_store import without_options

_COLUMN_NAMES = {
    "query_id": {"query_id", "queryid", "query", "qid", "question_id", "topic_id", "topic"},
    "document_id": {"corpus_id", "corpusid", "doc_id", "docid", "docno", "document_id", "passage_id", "pid"},
    "relevance": {"score", "relevance", "relevancy", "rel", "label", "grade"},
}
"""Field → names of its column, in lower case and with `_` for `-` and spaces."""
_KNOWN_FORMATS = (
    "the columns of judgements are query-id, corpus-id, score (BEIR), query_id, doc_id, relevance, or TREC's "
    "four: question id, iteration, document id, relevance"
)
# Stricter than `float`, which also takes `nan`, `inf`, `1_000` and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
Threshold = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
"""Setting of sources and tasks; see `whole_grades`."""
_MAX_GRADE = 1_000_000
"""Sums of greater gains would lose digits, and no published file has such grades."""


class Judgement(NamedTuple):
    """Relevance of one document to one query."""

    where: str
    query_id: str
    document_id: str
    relevance: float = 1.0


def _judgement(where: str, query_id: str, document_id: str, relevance: Any) -> Judgement:
    """A judgement whose relevance is a number or the text of one."""
    if isinstance(relevance, str) and _NUMBER.fullmatch(relevance.strip()):
        relevance = float(relevance)
    if isinstance(relevance, bool) or not isinstance(relevance, int | float):
        raise BadRowError(where, "relevance is not a number")
    if not abs(relevance) <= _MAX_GRADE:  # also true for NaN
        raise BadRowError(where, f"relevance is not a number, or beyond {_MAX_GRADE:,}")
    return Judgement(where, query_id, document_id, float(relevance))


def read_judgements(location: str) -> Iterator[Judgement | BadRow]:
    """All judgements of a file: JSON lines if its name says so, else text. Unknown columns raise `SourceError`."""
    if ".jsonl" in without_options(location).rpartition("/")[2]:
        yield from parse_rows(_from_json, read_jsonl(location))
        return
    layout: _LineLayout | None = None
    for line in lines(location):
        if isinstance(line, BadRow):
            yield line
        # Only the first readable line may be a header.
        elif layout is None and (layout := _header_layout(line)):
            continue
        else:
            layout = layout or _headless_layout(line)
            yield from parse_rows(layout.judgement, [line])


class _LineLayout(NamedTuple):
    """Positions of the columns in a line."""

    num_columns: int
    query: int
    document: int
    relevance: int
    tab: bool
    """Columns are separated by single tabs, so that ids may contain spaces; else by any white space."""

    def judgement(self, line: Line) -> Judgement:
        cells = _cells(line.text, tab=self.tab)
        if len(cells) != self.num_columns:
            raise BadRowError(line.where, f"has not as many columns as the lines before; {_KNOWN_FORMATS}")
        return _judgement(line.where, cells[self.query], cells[self.document], cells[self.relevance])


def _cells(text: str, *, tab: bool) -> list[str]:
    return text.split("\t") if tab else text.split()


def _header_layout(line: Line) -> _LineLayout | None:
    tab = "\t" in line.text
    fields = [_field(cell) for cell in _cells(line.text, tab=tab)]
    # A header has each of the three columns exactly once; any other line is data.
    if any(fields.count(field) != 1 for field in _COLUMN_NAMES):
        return None
    # In the order of the keys of `_COLUMN_NAMES`.
    query, document, relevance = (fields.index(field) for field in _COLUMN_NAMES)
    return _LineLayout(len(fields), query, document, relevance, tab)


def _headless_layout(line: Line) -> _LineLayout:
    tab = "\t" in line.text and line.text.count("\t") in (2, 3)  # TREC's columns are separated by any white space.
    cells = _cells(line.text, tab=tab)
    if len(cells) not in (3, 4) or not _NUMBER.fullmatch(cells[-1].strip()):
        # Reading on would mean to guess what the columns hold.
        raise SourceError(
            f"{line.where}: neither a known header nor a judgement; {_KNOWN_FORMATS}", code="QRELS_COLUMNS"
        )
    # Counted from the end, since TREC has its iteration after the query.
    return _LineLayout(len(cells), 0, len(cells) - 2, len(cells) - 1, tab)


def _field(column: str) -> str | None:
    plain = re.sub(r"[\s-]+", "_", column.strip().strip('"').lower())
    return next((field for field, names in _COLUMN_NAMES.items() if plain in names), None)


def _from_json(record: Record) -> Judgement:
    columns = {field: column for column in record.values if (field := _field(column))}
    if columns.keys() != _COLUMN_NAMES.keys():
        raise BadRowError(record.where, f"lacks a column; {_KNOWN_FORMATS}")
    # The ids are read as texts, the relevance as it is stored.
    relevance = record.values[columns.pop("relevance")]
    return _judgement(record.where, **text_values(record, columns, numbers=tuple(columns)), relevance=relevance)


def read_mmarco_pairs(location: str) -> Iterator[Judgement | BadRow]:
    """Judgements of mMARCO's `qid pid negative-pid`, of `qid pid`, or of TREC's four columns.

    Triples repeat a pair for each of its negatives; it is read once, and the repetition is not a rejection.
    """
    seen: set[tuple[str, str, float]] = set()
    for judgement in parse_rows(_mmarco_pair, lines(location)):
        if isinstance(judgement, Judgement):
            # All fields but the place.
            if judgement[1:] in seen:
                continue
            seen.add(judgement[1:])
        yield judgement


def _mmarco_pair(line: Line) -> Judgement:
    match line.text.split():
        case [query_id, document_id] | [query_id, document_id, _]:
            return Judgement(line.where, query_id, document_id)
        case [query_id, _, document_id, relevance]:
            return _judgement(line.where, query_id, document_id, relevance)
    raise BadRowError(line.where, "neither qid, pid and perhaps a negative pid, nor the four columns of TREC qrels")


def whole_grades(
    judgements: Iterable[Judgement | BadRow], threshold: float | None = None
) -> Iterator[Judgement | BadRow]:
    """Convert relevance to whole grades.

    With a threshold, the grade is 1 if the relevance reaches it, else 0. Without one, a fraction becomes a `BadRow`.
    """

    def with_grade(judgement: Judgement) -> Judgement:
        if threshold is not None:
            return judgement._replace(relevance=float(judgement.relevance >= threshold))
        if not judgement.relevance.is_integer():
            reason = "relevance is a fraction; state from which on a document is right: threshold=…"
            raise BadRowError(judgement.where, reason)
        return judgement

    return parse_rows(with_grade, judgements)
