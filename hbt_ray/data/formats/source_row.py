"""Types that readers yield: `Record` as stored in a file, `SourceRow` for training, `BadRow` if it cannot be read.

A parser of one row raises `BadRowError`. A reader goes on after it: `parse_rows` yields a `BadRow` in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from hbt_ray.errors import SourceError

_MAX_EXACT = 2**53
"""All whole numbers below this one are exact as floats."""
_MAX_ID_BITS = 256
"""Longer integers are not read as ids; Python refuses to print those of more than 4,300 digits."""
FLOAT_IDS = "ids are whole numbers that were stored as floats (12.0); they are read as integers (12)"

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One language version of one item: a question with a passage that answers it."""

    item_id: str
    """Id of the item, shared by all of its language versions."""
    language: str
    """BCP-47 tag, as the source spells it."""
    question: str
    passage: str
    answer: str = ""
    """Words of the passage that answer the question; a mined negative must not contain them. Empty: unknown."""
    passage_id: str = ""
    """Id of the passage, shared by all items and languages with this passage. Empty: the source has no such ids."""
    question_id: str = ""
    """Id of the question, shared by all items and languages with this question, such as the items of its several right
    passages. Empty: the source has no ids of questions. Equal texts count as equal without an id."""
    dataset: str = ""
    """Dataset that the row belongs to. Empty: the dataset is named like the source."""
    where: str = ""
    """File and line, or another description of the place; used in messages only."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read. Sources count it as rejected; evaluation tasks raise `BadRowError`."""

    where: str
    """File and line."""
    reason: str
    """Description of the fault without details of the row, because rejections are counted by reason."""


class BadRowError(SourceError):
    """A file has a malformed row, and the reader needs all rows."""

    code = "BAD_ROW"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}; download the file again, or repair this place")
        self.where, self.reason = where, reason

    def __reduce__(self) -> tuple[Any, ...]:
        # `Exception` would be unpickled with the message as its only argument.
        return type(self), (self.where, self.reason)


def parse_rows(parse: Callable[[T], U], rows: Iterable[T | BadRow]) -> Iterator[U | BadRow]:
    """Parse each row; a row that `parse` refuses with `BadRowError` becomes a bad row, and bad rows pass through."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            parsed: U | BadRow = parse(row)
        except BadRowError as error:
            parsed = BadRow(error.where, error.reason)
        yield parsed


def without_bad_rows(rows: Iterable[T | BadRow]) -> Iterator[T]:
    """The rows, for readers that must not lose any: half of a benchmark gives no figure.

    Raises:
        BadRowError: at the first bad row.
    """
    for row in rows:
        if isinstance(row, BadRow):
            raise BadRowError(row.where, row.reason)
        yield row


class Record(NamedTuple):
    """A row as it is stored, with its place."""

    where: str
    values: dict[str, Any]


class UnsupportedValue(NamedTuple):
    """Replaces a value whose type a row of texts cannot hold, such as a date or bytes."""

    type: str


def has_surrogate(text: str) -> bool:
    """Whether a text has half a surrogate pair, which UTF-8 and therefore Arrow cannot store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def unstorable_reason(text: str) -> str:
    """Reason why a text cannot be stored; empty if it can. NUL is refused, because many programs end a text there."""
    if "\0" in text:
        return "a NUL character"
    return "half a surrogate pair" if has_surrogate(text) else ""


def text_values(
    record: Record,
    columns: Mapping[str, str],
    numbers: Collection[str] = (),
    notes: Counter[str] | None = None,
) -> dict[str, str]:
    """The texts of some columns of a record; null becomes an empty text.

    Args:
        columns: key of the result → column.
        numbers: keys whose values may be whole numbers as well; they become digits.
        notes: counter of conversions, such as `FLOAT_IDS`.

    Raises:
        BadRowError: a column is missing or holds a value of another type.
    """
    if missing := [column for column in columns.values() if column not in record.values]:
        raise BadRowError(record.where, missing_columns(missing, record.values))
    texts = {}
    for key, column in columns.items():
        value = record.values[column]
        # `bool` is a subclass of `int`, but True is not an id.
        if key in numbers and isinstance(value, int | float) and not isinstance(value, bool):
            digits = _digits(value)
            if notes is not None and isinstance(value, float) and isinstance(digits, str):
                notes[FLOAT_IDS] += 1
            value = digits
        if value is not None and not isinstance(value, str):
            raise BadRowError(record.where, f"column {column!r} holds a {type_name(value)}, not text")
        texts[key] = value or ""
    return texts


def _digits(value: int | float) -> Any:
    """The digits of a whole number, None for NaN (the null of pandas), and any other number unchanged."""
    if isinstance(value, int):
        return str(value) if value.bit_length() < _MAX_ID_BITS else value
    if value != value:  # NaN.
        return None
    return str(int(value)) if value.is_integer() and abs(value) < _MAX_EXACT else value


def type_name(value: Any) -> str:
    """Name of a value's type for errors."""
    return value.type if isinstance(value, UnsupportedValue) else type(value).__name__


def missing_columns(missing: Collection[str], columns: Collection[str]) -> str:
    """Reason for rejecting a record or a file that lacks columns."""
    return (
        f"no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, sorted(columns)[:20]))}. "
        "Rename the columns, or say under `columns:` of the source which column holds what"
    )
