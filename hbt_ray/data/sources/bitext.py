"""Bitext: sentences with their translations; question and passage are the sentence itself, in two languages.

Three shapes, in any format of a table: one row a language version (NTREX-128: language, number, sentence); pairs with
English (TICO-19: language, id, English sentence, sentence), where the English of an id is yielded once, and the ids are
held in memory for that; or a column `translation` of language → sentence, as Hugging Face `datasets` has it.

Use it in cross-lingual batches only. In a monolingual batch a sentence would look for itself, which teaches nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from hbt_ray.config import Config
from hbt_ray.data.formats.records import Record, records, texts
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.data.formats.training_pairs import ColumnNames, Reader
from hbt_ray.storage.location import Location, without_options


class BitextColumns(Config):
    """Which column holds what."""

    id: str = "id"
    """The same for all translations of a sentence."""
    language: str = "language"
    text: str = "text"
    english: str = ""
    """The English version, in tables of pairs; empty: English has rows of its own."""


class BitextSource(Config):
    """Parallel sentences."""

    kind: Literal["bitext"]
    name: str
    path: Location
    licence: str = ""
    columns: BitextColumns = BitextColumns()

    def locations(self) -> list[str]:
        return [self.path]

    def parts(self) -> list[BitextSource]:
        return [self]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        columns = {use: column for use, column in self.columns.model_dump().items() if column}
        reader = Reader(ColumnNames(item_id=self.columns.id), root=without_options(self.path))

        def wanted(names: Collection[str]) -> set[str]:
            return reader.columns(names) if self._is_translation(names) else set(columns.values())

        with_english: set[str] = set()
        for record in records(self.path, wanted):
            if isinstance(record, Record) and self._is_translation(record.values):
                yield from reader.rows(record)
                continue
            found = record if isinstance(record, BadRow) else texts(record, columns, numbers=("id",))
            if isinstance(found, BadRow):
                yield found
                continue
            if self.columns.english and found["id"] not in with_english:
                with_english.add(found["id"])
                yield _row(found["id"], "en", found["english"], record.where)
            yield _row(found["id"], found["language"], found["text"], record.where)

    def _is_translation(self, names: Collection[str]) -> bool:
        return "translation" in names and self.columns.text not in names


def _row(sentence_id: str, language: str, text: str, where: str) -> SourceRow:
    return SourceRow(sentence_id, language, text, text, passage_id=sentence_id, where=where)
