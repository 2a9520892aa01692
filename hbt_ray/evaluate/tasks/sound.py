"""Sound input: what a file holds is taken as it is promised, or refused with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from hbt_ray.data.sources.rows import BadRow
from hbt_ray.errors import TaskError
from hbt_ray.languages import normalise

T = TypeVar("T")


def sound(rows: Iterable[T | BadRow]) -> Iterator[T]:
    """The rows; a judgement on half a benchmark is none, so the first bad row ends the reading.

    Raises:
        TaskError: with the file and the line.
    """
    for row in rows:
        if isinstance(row, BadRow):
            raise TaskError(f"{row.where}: {row.reason}; download the file again, or repair the line")
        yield row


def tag_of(code: str, where: str) -> str:
    """The language that a file calls `code`.

    Raises:
        TaskError: it is none.
    """
    try:
        return normalise(code)
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from None


def value(node: Any, key: str, kind: type[T], at: str, form: str) -> T:
    """A value inside a JSON file; `form` says what the file should look like.

    Raises:
        TaskError: it is not there, or is of another kind.
    """
    if not isinstance(node, dict) or key not in node:
        raise TaskError(f"{at}: has no {key!r}; {form}")
    found = node[key]
    if not isinstance(found, kind):
        raise TaskError(f"{at}.{key}: is {type(found).__name__}, not {kind.__name__}; {form}")
    return found
