"""Forms: the columns under which published sets of training rows have question and passage.

A form is chosen by the names of the columns alone, if only one fits:

- the configured columns, by default `item_id`, `language`, `question`, `passage`;
- `anchor` and `positive`, or `query` and `positive` (sentence-transformers);
- `query` and `pos`, a list of right passages (FlagEmbedding); `query` and `positive_passages` (Tevatron, and MIRACL and
  Mr. TyDi on the hub);
- `translation`, an object of language → sentence (`Translation` of Hugging Face `datasets`): bitext.

Where the configuration gives the language of all rows, ids may be missing: each row is then an item of its own, named
by its place. Given negatives (`neg`, `negative`, …) are not read; `hbt mine` finds negatives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from hbt_ray.config import Config
from hbt_ray.data.formats.records import Record, missing_columns, texts, type_of
from hbt_ray.data.formats.source_row import BadRow, SourceRow

UNANSWERABLE = "the question has no answer in the passage (SQuAD 2.0's is_impossible), so the passage is no positive"
_QUESTION = ("query", "anchor")
_PASSAGE = ("positive", "pos", "positive_passages")
_LISTS = ("pos", "positive_passages")
_TRANSLATION = "translation"
_MARKS = ("is_impossible", "answers")
"""Columns of SQuAD 2.0 that say whether a passage answers its question."""


class ColumnNames(Config):
    """Which column holds what."""

    item_id: str = "item_id"
    """Empty: each row is an item of its own."""
    language: str = "language"
    question: str = "question"
    passage: str = "passage"
    passage_language: str = ""
    """Where some passages are not in the language of their question: such rows are rejected, as an item needs both
    sides in each of its languages. Empty: all are."""
    answer: str = ""
    """Empty: none has one."""
    passage_id: str = ""
    """Empty: no ids; equal texts are the same passage with ids and without."""
    question_id: str = ""
    """Empty: no ids; equal texts are the same question with ids and without."""
    dataset: str = ""
    """Empty: all rows belong to the dataset of the source's name."""

    def named(self) -> dict[str, str]:
        return {use: column for use, column in self.model_dump().items() if column}


class Form(NamedTuple):
    """How the rows of one set of columns are read."""

    uses: Mapping[str, str]
    """Use → column."""
    passages: str = ""
    """Column with a list of right passages."""
    marks: tuple[str, ...] = ()
    """Columns that may say that a question has no answer."""

    @property
    def columns(self) -> set[str]:
        return {*self.uses.values(), *self.marks} | ({self.passages} if self.passages else set())


class Reader:
    """Records → rows; counts what it reads otherwise than it is stored.

    Args:
        language: of all rows; empty if a column holds it.
        root: what `where` of a record begins with; the rest names rows that have no id.
    """

    def __init__(self, columns: ColumnNames, language: str = "", root: str = "") -> None:
        self._columns, self._language, self._root = columns, language, root
        self._form = lru_cache(maxsize=1000)(self._try_choose)  # Records of JSON lines may differ in their keys.
        self.notes: Counter[str] = Counter()

    def columns(self, names: Collection[str]) -> set[str]:
        """Those of a file's columns that are needed.

        Raises:
            ValueError: some are missing, or two could be meant.
        """
        form = self._form(tuple(names))
        if isinstance(form, str):
            raise ValueError(form)
        return form.columns

    def rows(self, record: Record) -> Iterator[SourceRow | BadRow]:
        form = self._form(tuple(record.values))
        if isinstance(form, str):
            yield BadRow(record.where, form)
        elif form.passages == _TRANSLATION:
            yield from self._translations(record, form)
        elif any(says_unanswerable(record.values[column]) for column in form.marks):
            yield BadRow(record.where, UNANSWERABLE)
        elif form.passages:
            yield from self._right_passages(record, form)
        else:
            yield self._row(record, form, record.values)

    def _try_choose(self, names: tuple[str, ...]) -> Form | str:
        """The form, or why there is none."""
        try:
            return self._choose(names)
        except ValueError as error:
            return str(error)

    def _choose(self, names: tuple[str, ...]) -> Form:
        uses = self._columns.named()
        if self._language:
            uses.pop("language", None)
            if uses.get("item_id") == ColumnNames.model_fields["item_id"].default and uses["item_id"] not in names:
                del uses["item_id"]
                if "query_id" in names:
                    uses["item_id"] = "query_id"
        if _TRANSLATION in names and not {uses["question"], uses["passage"]} & set(names):
            kept = {use: column for use, column in uses.items() if use in ("item_id", "dataset") and column in names}
            return Form(kept, _TRANSLATION)
        uses["question"] = _named(uses["question"], "question", _QUESTION, names)
        passage = _named(uses["passage"], "passage", _PASSAGE, names)
        marks = tuple(column for column in _MARKS if column in names and column not in uses.values())
        if passage in _LISTS and passage != uses.pop("passage"):
            return _complete(Form(uses, passage, marks), names)
        uses["passage"] = passage
        return _complete(Form(uses, "", marks), names)

    def _row(self, record: Record, form: Form, values: dict[str, Any], suffix: str = "") -> SourceRow | BadRow:
        found = texts(Record(record.where, values), form.uses, ("item_id", "passage_id", "question_id"), self.notes)
        if isinstance(found, BadRow):
            return found
        found.setdefault("language", self._language)
        if found.pop("passage_language", found["language"]) != found["language"]:
            return BadRow(record.where, "question and passage are in different languages")
        found.setdefault("item_id", record.where.removeprefix(self._root).lstrip("/: "))
        if suffix and found["item_id"].strip():
            found.setdefault("question_id", found["item_id"])
            found["item_id"] += suffix
        return SourceRow(**found, where=record.where)

    def _right_passages(self, record: Record, form: Form) -> Iterator[SourceRow | BadRow]:
        """A row for each right passage of a question."""
        passages = record.values[form.passages]
        if not isinstance(passages, list):
            yield BadRow(record.where, f"column {form.passages!r} holds a {type_of(passages)}, not a list of passages")
            return
        if not passages:
            yield BadRow(record.where, f"column {form.passages!r} is empty: the question has no right passage")
        uses = {**form.uses, "passage": "passage"}
        for number, passage in enumerate(passages):
            values = {**record.values, "passage": passage}
            if isinstance(passage, dict):  # Tevatron's, with an id and a title.
                title, text = passage.get("title") or "", passage.get("text")
                values["passage"] = f"{title} {text}".strip() if isinstance(text, str) else text
                if "docid" in passage:
                    values["docid"], uses["passage_id"] = passage["docid"], "docid"
            yield self._row(record, Form(uses), values, f"/{number}" if len(passages) > 1 else "")

    def _translations(self, record: Record, form: Form) -> Iterator[SourceRow | BadRow]:
        """A row for each language of a sentence, which is question and passage."""
        sentences = record.values[_TRANSLATION]
        match sentences:
            case {"language": [*languages], "translation": [*translations]} if len(languages) == len(translations):
                pairs = list(zip(languages, translations, strict=True))  # `TranslationVariableLanguages`.
            case dict():
                pairs = list(sentences.items())
            case _:
                yield BadRow(
                    record.where, f"column 'translation' holds a {type_of(sentences)}, not language → sentence"
                )
                return
        uses = {**form.uses, "language": "language", "question": "sentence", "passage": "sentence"}
        # Parquet has a null for each language that a row lacks.
        pairs = [(language, sentence) for language, sentence in pairs if sentence is not None]
        if not pairs:
            yield BadRow(record.where, "column 'translation' holds no sentence")
        for language, sentence in pairs:
            yield self._row(record, Form(uses), {**record.values, "language": language, "sentence": sentence})


def _complete(form: Form, names: tuple[str, ...]) -> Form:
    if missing := [column for column in form.uses.values() if column not in names]:
        raise ValueError(missing_columns(missing, names))
    return form


def _named(column: str, use: str, others: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The column of a use: the configured one, or the one that published sets call otherwise."""
    if column in names or column != ColumnNames.model_fields[use].default:
        return column
    there = [other for other in others if other in names]
    if len(there) > 1:
        raise ValueError(
            f"columns {' and '.join(map(repr, there))} may both be the {use}; say which it is under `columns:`"
        )
    return there[0] if there else column


def says_unanswerable(value: Any) -> bool:
    """Of a cell of `is_impossible` or of `answers`, which is empty for such questions of SQuAD 2.0 on the hub."""
    match value:
        case bool() | int():
            return bool(value)
        case str():
            return value.strip().lower() == "true"
        case {"text": []}:
            return True
    return False
