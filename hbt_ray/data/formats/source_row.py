"""The row: what every source yields and `prepare` groups into items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One language version of one item."""

    item_id: str
    """The same for all language versions of an item."""
    language: str
    """Canonical BCP-47 tag."""
    question: str
    passage: str
    answer: str = ""
    """Words of the passage that answer the question: a mined negative must not hold them. Empty where unknown."""
    passage_id: str = ""
    """The same for all items and languages that share a passage; empty where the source does not know it."""
    question_id: str = ""
    """The same for all items and languages that ask one question, such as one for each of its right passages; empty if
    the source does not know it. Equal texts are known to be equal without an id."""
    dataset: str = ""
    """The dataset that the row belongs to; empty stands for the source's name."""
    where: str = ""
    """File and line, or whatever leads a person to the row; for messages only."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """What a source yields in place of a row that it cannot read."""

    where: str
    """File and line."""
    reason: str
    """The same words for the same fault, since rejections are counted by it."""


class SourcePart(Protocol):
    """A stream of rows."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, one after the other, as a stream; a file that cannot be read raises `SourceError`."""
        ...


class Source(SourcePart, Protocol):
    """The rows of one origin."""

    @property
    def name(self) -> str:
        """What the manifest calls the origin."""
        ...

    @property
    def licence(self) -> str: ...

    def locations(self) -> list[str]:
        """The files and folders that the configuration names, so that a change of theirs is noticed."""
        ...

    def parts(self) -> Sequence[SourcePart]:
        """What can be read side by side, and in this order has the same rows; perhaps only the source itself."""
        ...


def unstorable_reason(text: str) -> str:
    """What makes a text unusable: Arrow has no place for half a surrogate pair, and no text needs a NUL; else empty."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return ""
