"""JSONL and Parquet tables: one row a language version of an item; no published format but the commonest one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from hbt_ray.config import Config
from hbt_ray.data.sources.records import Record, Stretch, stretches, texts
from hbt_ray.data.sources.rows import BadRow, Row
from hbt_ray.data.store.location import Location


class Columns(Config):
    """Which column holds what."""

    item_id: str = "item_id"
    language: str = "language"
    question: str = "question"
    passage: str = "passage"
    passage_language: str = ""
    """Where some passages are not in the language of their question: such rows are rejected, as an item needs both
    sides in each of its languages. Empty: all are."""
    answer: str = ""
    """Empty: none has one."""
    passage_id: str = ""
    """Empty: rows whose items have equal passages share them."""
    dataset: str = ""
    """Empty: all rows belong to the dataset of the source's name."""

    def named(self) -> dict[str, str]:
        return {use: column for use, column in self.model_dump().items() if column}


class TableSource(Config):
    """A `.jsonl`, `.jsonl.gz` or `.parquet` file, or a folder of them; local, or a URI such as `s3://bucket/folder`."""

    kind: Literal["table"]
    name: str
    path: Location
    licence: str = ""
    columns: Columns = Columns()

    def locations(self) -> list[str]:
        return [self.path]

    def parts(self) -> list[TablePart]:
        return [TablePart(stretch, self.columns) for stretch in stretches(self.path)]

    def rows(self) -> Iterator[Row | BadRow]:
        for part in self.parts():
            yield from part.rows()


class TablePart(NamedTuple):
    """A file, or some row groups of one."""

    stretch: Stretch
    columns: Columns

    def rows(self) -> Iterator[Row | BadRow]:
        named = self.columns.named()
        for record in self.stretch.records(set(named.values())):
            yield row(record, named) if isinstance(record, Record) else record


def row(record: Record, columns: dict[str, str]) -> Row | BadRow:
    """The row of a record; ids may be whole numbers."""
    found = texts(record, columns, numbers=("item_id", "passage_id"))
    if isinstance(found, BadRow):
        return found
    if found.pop("passage_language", found["language"]) != found["language"]:
        return BadRow(record.where, "question and passage are in different languages")
    return Row(**found, where=record.where)
