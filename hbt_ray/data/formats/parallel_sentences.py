"""Bitext: sentences with their translations, as tables or as aligned lines of text.

A table has one row a language version (NTREX-128: language, number, sentence), or pairs with English (TICO-19 and
Tatoeba: language, id, English sentence, sentence), in any format of `hbt_ray.data.formats.records`. Aligned lines are
text files of one sentence a line, one file a language, whose n-th lines are translations of one another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from hbt_ray.config import Config
from hbt_ray.data.formats.files import code_by_language, lines
from hbt_ray.data.formats.records import read_records
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record, text_values, without_bad_rows
from hbt_ray.errors import SourceError


class SentenceColumns(Config):
    """Which column holds what."""

    id: str = "id"
    """Id that all translations of a sentence share."""
    language: str = "language"
    """Language tag of the sentence."""
    text: str = "text"
    """The sentence."""
    english: str = ""
    """English version of the sentence, in tables of pairs. Empty: English has rows of its own."""

    def by_field(self) -> dict[str, str]:
        return {field: column for field, column in self.model_dump().items() if column}


class Sentence(NamedTuple):
    """A sentence in one language, perhaps with its English version."""

    where: str
    id: str
    language: str
    text: str
    english: str = ""


def sentence_of(record: Record, columns: SentenceColumns) -> Sentence | BadRow:
    """The sentence of a record; ids may be whole numbers."""
    values = text_values(record, columns.by_field(), numbers=("id",))
    return values if isinstance(values, BadRow) else Sentence(record.where, **values)


def read_numbered_sentences(table: str, columns: SentenceColumns) -> dict[str, list[tuple[int, Sentence]]]:
    """Language → (number, sentence) of a table whose ids are numbers, sorted by number.

    Raises:
        BadRowError: a malformed row, or an id that is not a whole number.
        SourceError: a language is unknown or occurs under two codes.
    """
    by_code: dict[str, list[tuple[int, Sentence]]] = defaultdict(list)
    for record in without_bad_rows(read_records(table, set(columns.by_field().values()))):
        for sentence in without_bad_rows([sentence_of(record, columns)]):
            try:
                by_code[sentence.language].append((int(sentence.id), sentence))
            except ValueError:
                raise BadRowError(sentence.where, f"column {columns.id!r} is not a whole number") from None
    sentences = {tag: by_code[code] for tag, code in code_by_language(by_code, table).items()}
    return {tag: sorted(rows, key=lambda row: (row[0], row[1].text)) for tag, rows in sentences.items()}


def read_aligned_lines(file: str) -> list[str]:
    """The sentences of a text file, one a line.

    Raises:
        SourceError: a blank line, after which the lines would not be those of the translation.
    """
    return list(_numbered_lines(file))


def _numbered_lines(file: str) -> Iterator[str]:
    for number, line in enumerate(without_bad_rows(lines(file)), start=1):
        if line.where != f"{file}:{number}":
            raise SourceError(
                f"{file}:{number}: a blank line, so that it is unclear what translates what", code="BLANK_LINE"
            )
        yield line.text
