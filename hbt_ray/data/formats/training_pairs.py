"""Turn records of published training sets into rows: find the columns of the question and its right passages.

The layout is chosen by the names of the columns alone, if exactly one fits:

- the configured columns, by default `item_id`, `language`, `question`, `passage`;
- `anchor` and `positive`, or `query` and `positive` (sentence-transformers);
- `query` and `pos`, a list of right passages (FlagEmbedding); `query` and `positive_passages` (Tevatron, and MIRACL and
  Mr. TyDi on the hub);
- `translation`, an object of language → sentence (`Translation` of Hugging Face `datasets`): bitext.

If the configuration gives the language of all rows, ids may be missing: each row is then an item of its own, named
by its place in the file. Columns of negatives (`neg`, `negative_1`, …) are not read, and a warning is logged.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from hbt_ray.config import Config
from hbt_ray.data.formats.source_row import (
    BadRow,
    BadRowError,
    Record,
    SourceRow,
    missing_columns,
    parse_rows,
    text_values,
    type_name,
)

logger = logging.getLogger(__name__)

UNANSWERABLE = "the question has no answer in the passage (SQuAD 2.0's is_impossible), so the passage is no positive"
_NEGATIVE_COLUMN = re.compile(r"neg|negatives?|negative_passages|negative_\d+")
_PUBLISHED_COLUMNS = {"question": ("query", "anchor"), "passage": ("positive", "pos", "positive_passages")}
"""Field → columns that published sets use instead of the default one."""
_LIST_COLUMNS = ("pos", "positive_passages")
_TRANSLATION = "translation"
_ANSWERABLE_COLUMNS = ("is_impossible", "answers")
"""Columns of SQuAD 2.0 that mark unanswerable questions."""
_ID_FIELDS = ("item_id", "passage_id", "question_id")
_MAX_LAYOUTS = 1000


class ColumnNames(Config):
    """Names of the columns that hold the fields of a row."""

    item_id: str = "item_id"
    """Column of the item id, which all language versions of an item share. Empty: each row is an item of its own."""
    language: str = "language"
    """Column of the row's language tag."""
    question: str = "question"
    """Column of the question's text."""
    passage: str = "passage"
    """Column of the text of a passage that answers the question."""
    passage_language: str = ""
    """Column of the passage's language. Rows whose passage and question differ in language are rejected, because an
    item needs both in each of its languages. Empty: they never differ."""
    answer: str = ""
    """Column of the words of the passage that answer the question. Empty: there is no such column."""
    passage_id: str = ""
    """Column of the passage id. Empty: there is no such column; equal texts are the same passage in any case."""
    question_id: str = ""
    """Column of the question id. Empty: there is no such column; equal texts are the same question in any case."""
    dataset: str = ""
    """Column of the dataset's name. Empty: all rows belong to the dataset that is named like the source."""


class _Layout(NamedTuple):
    """Layout of the records that have one set of columns."""

    columns_by_field: Mapping[str, str]
    """Field of `SourceRow` → column."""
    list_column: str = ""
    """Column with a list of right passages, or of translations."""
    answerable_columns: tuple[str, ...] = ()


class _Version(NamedTuple):
    """A record with one of its right passages or translations."""

    record: Record
    columns_by_field: Mapping[str, str]
    suffix: str = ""
    """Appended to the id of the item."""


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
        self._layout = lru_cache(maxsize=_MAX_LAYOUTS)(self._choose_layout)
        self._notes: Counter[str] = Counter()
        self._negative_columns: set[str] = set()

    def columns(self, names: Collection[str]) -> set[str]:
        """The columns to read among those of a file; raises `ValueError` if one is missing or ambiguous."""
        layout = self._layout(tuple(names))
        return {*layout.columns_by_field.values(), *layout.answerable_columns, layout.list_column} - {""}

    def rows(self, records: Iterable[Record | BadRow]) -> Iterator[SourceRow | BadRow]:
        """The rows of each record: one for each right passage or translation."""
        return parse_rows(self._row, (version for record in records for version in self._versions(record)))

    def log_notes(self, location: str, *, negatives: bool) -> None:
        """Log the conversions of values, and columns that were not read.

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

    def _choose_layout(self, names: tuple[str, ...]) -> _Layout:
        # An empty name in the configuration means that there is no such column.
        fields = {field: column for field, column in self._columns.model_dump().items() if column}
        self._negative_columns.update(filter(_NEGATIVE_COLUMN.fullmatch, set(names) - set(fields.values())))
        if self._language:
            fields.pop("language", None)
            # Ids may be missing only here, and only if the configuration does not name their column.
            if fields.get("item_id") == ColumnNames.model_fields["item_id"].default and fields["item_id"] not in names:
                del fields["item_id"]
                if "query_id" in names:
                    fields["item_id"] = "query_id"
        # A set with a question or passage column is not bitext, whatever else it has.
        if _TRANSLATION in names and not {fields["question"], fields["passage"]} & set(names):
            kept = {f: column for f, column in fields.items() if f in ("item_id", "dataset") and column in names}
            return _Layout(kept, _TRANSLATION)
        answerable = [column for column in _ANSWERABLE_COLUMNS if column in names]
        for field in _PUBLISHED_COLUMNS:
            fields[field] = _column_of(field, fields[field], names)
        # A list column that the configuration names is read as a text.
        is_list = fields["passage"] in _LIST_COLUMNS and fields["passage"] != self._columns.passage
        list_column = fields.pop("passage") if is_list else ""
        if missing := [column for column in fields.values() if column not in names]:
            raise ValueError(missing_columns(missing, names))
        return _Layout(fields, list_column, tuple(column for column in answerable if column not in fields.values()))

    def _versions(self, record: Record | BadRow) -> Iterator[_Version | BadRow]:
        if isinstance(record, BadRow):
            yield record
            return
        where, values = record
        try:
            layout = self._layout(tuple(values))
        except ValueError as error:
            yield BadRow(where, str(error))
            return
        content = values.get(layout.list_column)
        if any(is_marked_unanswerable(values[column]) for column in layout.answerable_columns):
            yield BadRow(where, UNANSWERABLE)
        elif not layout.list_column:
            yield _Version(record, layout.columns_by_field)
        elif layout.list_column == _TRANSLATION:
            yield from _translations(record, layout.columns_by_field)
        elif not isinstance(content, list):
            yield BadRow(where, f"column {layout.list_column!r} holds a {type_name(content)}, not a list of passages")
        elif not content:
            yield BadRow(where, f"column {layout.list_column!r} is empty: the question has no right passage")
        else:
            # A single passage adds no suffix, so that the item keeps its plain id.
            suffixes = [f"/{number}" for number in range(len(content))] if len(content) > 1 else [""]
            for passage, suffix in zip(content, suffixes, strict=True):
                yield _with_passage(record, layout.columns_by_field, passage, suffix)

    def _row(self, version: _Version) -> SourceRow:
        where = version.record.where
        values = text_values(version.record, version.columns_by_field, _ID_FIELDS, self._notes)
        values.setdefault("language", self._language)
        if values.pop("passage_language", values["language"]) != values["language"]:
            raise BadRowError(where, "question and passage are in different languages")
        values.setdefault("item_id", where.removeprefix(self._root).lstrip("/: "))
        # Several passages of one question become items of their own that share the question id.
        if version.suffix and values["item_id"].strip():
            values.setdefault("question_id", values["item_id"])
            values["item_id"] += version.suffix
        return SourceRow(**values, where=where)


def _column_of(field: str, column: str, names: tuple[str, ...]) -> str:
    """The column of a field: the configured one, or the one that published sets use instead."""
    # A column that the configuration names is never replaced.
    if column in names or column != ColumnNames.model_fields[field].default:
        return column
    present = [other for other in _PUBLISHED_COLUMNS[field] if other in names]
    if len(present) > 1:
        raise ValueError(
            f"columns {' and '.join(map(repr, present))} may both be the {field}; say which it is under `columns:`"
        )
    return present[0] if present else column


def _with_passage(record: Record, columns: Mapping[str, str], passage: Any, suffix: str) -> _Version:
    """Copy a record for one passage of its list. Tevatron's passages are objects with an id and a title."""
    values, columns = {**record.values, "passage": passage}, {**columns, "passage": "passage"}
    if isinstance(passage, dict):
        title, text = passage.get("title") or "", passage.get("text")
        values["passage"] = f"{title} {text}".strip() if isinstance(text, str) else text
        if "docid" in passage:
            values["docid"], columns["passage_id"] = passage["docid"], "docid"
    return _Version(Record(record.where, values), columns, suffix)


def _translations(record: Record, columns: Mapping[str, str]) -> Iterator[_Version | BadRow]:
    """Copy a record for each of its translations; the sentence is both question and passage."""
    match record.values[_TRANSLATION]:
        case {"language": [*languages], "translation": [*sentences]} if len(languages) == len(sentences):
            translations = list(zip(languages, sentences, strict=True))  # `TranslationVariableLanguages`
        case dict() as by_language:
            translations = list(by_language.items())
        case other:
            yield BadRow(record.where, f"column 'translation' holds a {type_name(other)}, not language → sentence")
            return
    columns = {**columns, "language": "language", "question": "sentence", "passage": "sentence"}
    # Parquet has a null for each language that a row lacks.
    translations = [(language, sentence) for language, sentence in translations if sentence is not None]
    if not translations:
        yield BadRow(record.where, "column 'translation' holds no sentence")
    for language, sentence in translations:
        yield _Version(Record(record.where, {**record.values, "language": language, "sentence": sentence}), columns)


def is_marked_unanswerable(value: Any) -> bool:
    """Whether a value of `is_impossible`, or of `answers` in SQuAD 2.0 on the hub, marks an unanswerable question."""
    match value:
        case bool() | int():
            return bool(value)
        case str():
            return value.strip().lower() == "true"
        case {"text": []}:  # `answers` on the hub: lists of texts and of starts.
            return True
    return False
