"""Records of published training sets as rows: which columns hold the question and its right passages.

The layout is chosen by the names of the columns alone, if only one fits:

- the configured columns, by default `item_id`, `language`, `question`, `passage`;
- `anchor` and `positive`, or `query` and `positive` (sentence-transformers);
- `query` and `pos`, a list of right passages (FlagEmbedding); `query` and `positive_passages` (Tevatron, and MIRACL and
  Mr. TyDi on the hub);
- `translation`, an object of language → sentence (`Translation` of Hugging Face `datasets`): bitext.

If the configuration gives the language of all rows, ids may be missing: each row is then an item of its own, named
by its place in the file. Columns of negatives (`neg`, `negative_1`, …) are not read, and a warning says so.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from hbt_ray.config import Config
from hbt_ray.data.formats.source_row import BadRow, Record, SourceRow, missing_columns, text_values, type_name

logger = logging.getLogger(__name__)

UNANSWERABLE = "the question has no answer in the passage (SQuAD 2.0's is_impossible), so the passage is no positive"
_NEGATIVE_COLUMN = re.compile(r"neg|negatives?|negative_passages|negative_\d+")
_QUESTION_COLUMNS = ("query", "anchor")
_PASSAGE_COLUMNS = ("positive", "pos", "positive_passages")
_LIST_COLUMNS = ("pos", "positive_passages")
_TRANSLATION = "translation"
_ANSWERABLE_COLUMNS = ("is_impossible", "answers")
"""Columns of SQuAD 2.0 that say whether the passage answers the question."""
_ID_FIELDS = ("item_id", "passage_id", "question_id")
_MAX_LAYOUTS = 1000


class ColumnNames(Config):
    """Which column holds what."""

    item_id: str = "item_id"
    """Id that all language versions of an item share. Empty: each row is an item of its own."""
    language: str = "language"
    """Language tag of the row."""
    question: str = "question"
    """The question."""
    passage: str = "passage"
    """A passage that answers the question."""
    passage_language: str = ""
    """Language of the passage. Rows whose passage is in another language than the question are rejected, because an
    item needs both in each of its languages. Empty: they are never different."""
    answer: str = ""
    """Words of the passage that answer the question. Empty: no column has them."""
    passage_id: str = ""
    """Id of the passage. Empty: no column has one; equal texts are the same passage in any case."""
    question_id: str = ""
    """Id of the question. Empty: no column has one; equal texts are the same question in any case."""
    dataset: str = ""
    """Dataset of the row. Empty: all rows belong to the dataset that is named like the source."""


class _Layout(NamedTuple):
    """How to read the records that have one set of columns."""

    columns_by_field: Mapping[str, str]
    """Field of `SourceRow` → column."""
    list_column: str = ""
    """Column with a list of right passages, or of translations."""
    answerable_columns: tuple[str, ...] = ()

    @property
    def columns(self) -> set[str]:
        return {*self.columns_by_field.values(), *self.answerable_columns, *filter(None, [self.list_column])}


class PairReader:
    """Turns records into rows.

    Args:
        columns: the configured columns.
        language: language of all rows; empty if a column holds it.
        root: start of `Record.where` that is left out of the ids of rows without an id.
    """

    def __init__(self, columns: ColumnNames, language: str = "", root: str = "") -> None:
        self._columns, self._language, self._root = columns, language, root
        # Records of JSON lines may differ in their keys.
        self._layout = lru_cache(maxsize=_MAX_LAYOUTS)(self._layout_or_reason)
        self._notes: Counter[str] = Counter()
        self._negative_columns: set[str] = set()

    def columns(self, names: Collection[str]) -> set[str]:
        """The columns that must be read, of those that a file has.

        Raises:
            ValueError: some are missing, or two could be meant.
        """
        layout = self._layout(tuple(names))
        if isinstance(layout, str):
            raise ValueError(layout)
        return layout.columns

    def rows(self, record: Record) -> Iterator[SourceRow | BadRow]:
        """The rows of a record: one for each right passage or translation."""
        layout = self._layout(tuple(record.values))
        if isinstance(layout, str):
            yield BadRow(record.where, layout)
        elif layout.list_column == _TRANSLATION:
            yield from self._translations(record, layout)
        elif any(is_marked_unanswerable(record.values[column]) for column in layout.answerable_columns):
            yield BadRow(record.where, UNANSWERABLE)
        elif layout.list_column:
            yield from self._right_passages(record, layout)
        else:
            yield self._row(record, layout.columns_by_field)

    def log_notes(self, location: str, *, negatives: bool) -> None:
        """Log what was read otherwise than it is stored.

        Args:
            negatives: also warn of columns with negatives; False for all but one of the files of a source.
        """
        for note, count in self._notes.items():
            logger.warning("%s: %s: %d times", location, note, count)
        if negatives and self._negative_columns:
            logger.warning(
                "%s: the negatives in column %s are not read. To train with hard negatives, run `hbt mine` on the "
                "prepared store; it finds them with a model and checks them against all right passages",
                location,
                ", ".join(map(repr, sorted(self._negative_columns))),
            )

    def _layout_or_reason(self, names: tuple[str, ...]) -> _Layout | str:
        """The layout, or why there is none."""
        try:
            layout = self._choose_layout(names)
        except ValueError as error:
            return str(error)
        self._negative_columns.update(filter(_NEGATIVE_COLUMN.fullmatch, set(names) - layout.columns))
        return layout

    def _choose_layout(self, names: tuple[str, ...]) -> _Layout:
        fields = {field: column for field, column in self._columns.model_dump().items() if column}
        if self._language:
            fields.pop("language", None)
            if fields.get("item_id") == ColumnNames.model_fields["item_id"].default and fields["item_id"] not in names:
                del fields["item_id"]
                if "query_id" in names:
                    fields["item_id"] = "query_id"
        if _TRANSLATION in names and not {fields["question"], fields["passage"]} & set(names):
            kept = {f: column for f, column in fields.items() if f in ("item_id", "dataset") and column in names}
            return _Layout(kept, _TRANSLATION)
        fields["question"] = _column_of("question", fields["question"], _QUESTION_COLUMNS, names)
        passage = _column_of("passage", fields["passage"], _PASSAGE_COLUMNS, names)
        answerable = tuple(c for c in _ANSWERABLE_COLUMNS if c in names and c not in fields.values())
        list_column = passage if passage in _LIST_COLUMNS and passage != fields.pop("passage") else ""
        if not list_column:
            fields["passage"] = passage
        if missing := [column for column in fields.values() if column not in names]:
            raise ValueError(missing_columns(missing, names))
        return _Layout(fields, list_column, answerable)

    def _row(self, record: Record, columns: Mapping[str, str], suffix: str = "") -> SourceRow | BadRow:
        values = text_values(record, columns, _ID_FIELDS, self._notes)
        if isinstance(values, BadRow):
            return values
        values.setdefault("language", self._language)
        if values.pop("passage_language", values["language"]) != values["language"]:
            return BadRow(record.where, "question and passage are in different languages")
        values.setdefault("item_id", record.where.removeprefix(self._root).lstrip("/: "))
        if suffix and values["item_id"].strip():
            values.setdefault("question_id", values["item_id"])
            values["item_id"] += suffix
        return SourceRow(**values, where=record.where)

    def _right_passages(self, record: Record, layout: _Layout) -> Iterator[SourceRow | BadRow]:
        passages = record.values[layout.list_column]
        if not isinstance(passages, list):
            reason = f"column {layout.list_column!r} holds a {type_name(passages)}, not a list of passages"
            yield BadRow(record.where, reason)
            return
        if not passages:
            yield BadRow(record.where, f"column {layout.list_column!r} is empty: the question has no right passage")
        columns = {**layout.columns_by_field, "passage": "passage"}
        for number, passage in enumerate(passages):
            values = {**record.values, "passage": passage}
            if isinstance(passage, dict):  # Tevatron's passages have an id and a title.
                title, text = passage.get("title") or "", passage.get("text")
                values["passage"] = f"{title} {text}".strip() if isinstance(text, str) else text
                if "docid" in passage:
                    values["docid"], columns["passage_id"] = passage["docid"], "docid"
            yield self._row(Record(record.where, values), columns, f"/{number}" if len(passages) > 1 else "")

    def _translations(self, record: Record, layout: _Layout) -> Iterator[SourceRow | BadRow]:
        """A row for each translation of a sentence; the sentence is question and passage."""
        match record.values[_TRANSLATION]:
            case {"language": [*languages], "translation": [*sentences]} if len(languages) == len(sentences):
                translations = list(zip(languages, sentences, strict=True))  # `TranslationVariableLanguages`
            case dict() as by_language:
                translations = list(by_language.items())
            case other:
                reason = f"column 'translation' holds a {type_name(other)}, not language → sentence"
                yield BadRow(record.where, reason)
                return
        columns = {**layout.columns_by_field, "language": "language", "question": "sentence", "passage": "sentence"}
        # Parquet has a null for each language that a row lacks.
        translations = [(language, sentence) for language, sentence in translations if sentence is not None]
        if not translations:
            yield BadRow(record.where, "column 'translation' holds no sentence")
        for language, sentence in translations:
            yield self._row(
                Record(record.where, {**record.values, "language": language, "sentence": sentence}), columns
            )


def _column_of(field: str, column: str, published: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The column of a field: the configured one, or the one that published sets have instead."""
    if column in names or column != ColumnNames.model_fields[field].default:
        return column
    present = [other for other in published if other in names]
    if len(present) > 1:
        raise ValueError(
            f"columns {' and '.join(map(repr, present))} may both be the {field}; say which it is under `columns:`"
        )
    return present[0] if present else column


def is_marked_unanswerable(value: Any) -> bool:
    """Whether a cell of `is_impossible`, or of `answers` in SQuAD 2.0 on the hub, says that there is no answer."""
    match value:
        case bool() | int():
            return bool(value)
        case str():
            return value.strip().lower() == "true"
        case {"text": []}:
            return True
    return False
