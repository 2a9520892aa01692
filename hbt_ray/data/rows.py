"""The row: what every source yields and `prepare` groups into items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One language version of one item."""

    item_id: str
    """The same for all language versions of an item."""
    language: str
    """Canonical BCP-47 tag."""
    question: str
    passage: str
    passage_id: str = ""
    """The same for all items and languages that share a passage; empty where the source does not know it."""
    dataset: str = ""
    """The dataset that the row belongs to; empty stands for the source's name."""
    where: str = ""
    """File and line, or whatever leads a person to the row; for messages only."""


class Source(Protocol):
    """A stream of rows of one origin."""

    name: str
    """What the manifest calls the origin."""
    licence: str

    def rows(self) -> Iterator[Row]:
        """All rows, one after the other; a row that cannot be read raises `SourceError`."""
        ...
