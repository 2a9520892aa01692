"""Sound input: what a file holds is taken as it is promised, or refused with its place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hbt_ray.data.formats.source_row import BadRow, unstorable_reason
from hbt_ray.errors import TaskError
from hbt_ray.languages.tags import normalise_tag

T = TypeVar("T")


def sound(rows: Iterable[T | BadRow]) -> Iterator[T]:
    """The rows; a judgement on half a benchmark is none, so the first bad row ends the reading.

    Raises:
        TaskError: with the file and the line.
    """
    for row in rows:
        if isinstance(row, BadRow):
            raise TaskError(f"{row.where}: {row.reason}; download the file again, or repair the line", code="BAD_ROW")
        yield row


def tag_of(code: str, where: str) -> str:
    """The language that a file calls `code`.

    Raises:
        TaskError: it is none.
    """
    try:
        return normalise_tag(code)
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from None


def by_tag(codes: Iterable[str], where: str) -> dict[str, str]:
    """Language → how the files of a task spell it.

    Raises:
        TaskError: a code is no language, or two stand for one, so that one would replace the other.
    """
    code_of: dict[str, str] = {}
    for code in codes:
        tag = tag_of(code, where)
        if tag in code_of:
            raise TaskError(
                f"{where}: {code_of[tag]} and {code} are both {tag!r}; remove one of them", code="LANGUAGE_TWICE"
            )
        code_of[tag] = code
    return code_of


def json_of(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        TaskError: it cannot be read, is no JSON, is nested too deeply or has a number of thousands of digits.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        reason = "it is nested too deeply"
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    raise TaskError(f"{path}: cannot be read as JSON ({reason}); download the file again", code="NO_JSON")


def value(node: Any, key: str, kind: type[T], at: str, form: str) -> T:
    """A value inside a JSON file; `form` says what the file should look like.

    Raises:
        TaskError: it is not there, or is of another kind.
    """
    if not isinstance(node, dict) or key not in node:
        raise TaskError(f"{at}: has no {key!r}; {form}")
    found = node[key]
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is int):
        raise TaskError(f"{at}.{key}: is {type(found).__name__}, not {kind.__name__}; {form}")
    if isinstance(found, str) and (problem := unstorable_reason(found)):
        raise TaskError(f"{at}.{key}: holds {problem}; {form}")
    return found
