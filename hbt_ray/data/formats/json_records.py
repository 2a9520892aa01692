"""JSON: lines of objects and arrays of objects as streams of records, and whole documents.

One line or one element is held at a time, except for `read_json`, which holds the whole document.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, TypeVar

from hbt_ray.data.formats.files import MAX_LINE_BYTES, Line, lines, opened, raw_lines, without_mark
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record
from hbt_ray.errors import SourceError

MAX_JSON_BYTES = 1 << 30
"""Largest document that `read_json` reads, unpacked: Python objects take several times that in memory."""
_UNUSABLE = "no usable JSON: a key that stands twice, too deep, or a number of thousands of digits"
_MAX_DIGITS = 1000
_READ_CHARACTERS = 1 << 20

T = TypeVar("T")


def read_jsonl(location: str) -> Iterator[Record | BadRow]:
    """The records of a file with one JSON object a line; any other line is a bad row.

    Raises:
        SourceError: as `lines`.
    """
    for line in lines(location):
        yield _parse_line(line) if isinstance(line, Line) else line


def read_json_records(location: str) -> Iterator[Record | BadRow]:
    """The records of a `.json` file: an array of objects, or lines of objects.

    Raises:
        SourceError: the file holds one object over several lines, or is damaged.
    """
    first = ""
    for _, raw in raw_lines(location):
        first = raw.decode("utf-8", "replace").strip()
        if first:
            break
    if first.startswith("["):
        yield from _read_array(location)
        return
    if first.startswith("{") and not isinstance(_parse_line(Line(location, first)), Record) and first[-1] != "}":
        raise SourceError(
            f"{location}: one JSON object over several lines, where an array or a line for each row is needed; "
            "SQuAD's JSON is read by kind: squad",
            code="NOT_ROWS",
        )
    yield from read_jsonl(location)


def read_json(location: str) -> Any:
    """The content of a JSON document.

    Raises:
        SourceError: the file is missing, empty, too large, or not JSON.
    """
    with opened(location) as stream:
        raw = stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise SourceError(
            f"{location}: more than {MAX_JSON_BYTES >> 20} MiB of JSON, which must be held whole; split it",
            code="FILE_TOO_LARGE",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{location}: cannot be read as UTF-8 text ({error})", code="ENCODING") from None
    if not text.strip():
        raise SourceError(f"{location}: the file is empty", code="EMPTY_FILE")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{location}:{error.lineno}: no valid JSON ({error.msg}); is the file cut short?", code="INVALID_JSON"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{location}: no usable JSON ({error})", code="INVALID_JSON") from None


def member(node: Any, key: str, kind: type[T], where: str) -> T:
    """A member of a JSON object, checked for its type.

    Args:
        where: file and path of `node` within the document, for the error.

    Raises:
        BadRowError: `node` is not an object, lacks the key, or holds another type there.
    """
    if not isinstance(node, dict) or key not in node:
        there = sorted(node)[:20] if isinstance(node, dict) else type(node).__name__
        raise BadRowError(where, f"expected an object with {key!r} ({kind.__name__}), got {there}")
    value = node[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise BadRowError(
            where, f"expected an object with {key!r} ({kind.__name__}), got {type(value).__name__} under that key"
        )
    return value


def _parse_line(line: Line) -> Record | BadRow:
    try:
        values = json.loads(line.text, object_pairs_hook=_distinct_keys)
    except json.JSONDecodeError as error:
        return BadRow(line.where, f"no valid JSON ({error.msg}); every line must be one JSON object")
    except (ValueError, RecursionError):
        return BadRow(line.where, _UNUSABLE)
    if not isinstance(values, dict):
        return BadRow(line.where, f"a JSON {type(values).__name__}; every line must be one JSON object")
    return Record(line.where, values)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


class _TolerantDecoder(json.JSONDecoder):
    """A decoder that marks an element as unusable and goes on, so that the next element can be found."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_int=self._integer)
        self.usable = True

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        self.usable &= len(values) == len(pairs)
        return values

    def _integer(self, digits: str) -> int:
        self.usable &= len(digits) <= _MAX_DIGITS
        return int(digits[:_MAX_DIGITS])


def _read_array(location: str) -> Iterator[Record | BadRow]:
    """The elements of a JSON array, one held at a time.

    Raises:
        SourceError: the file is damaged or cut short; what comes after the damage cannot be found.
    """
    decoder = _TolerantDecoder()
    with opened(location) as stream:
        text = _TextBuffer(stream, location)
        text.take("[")
        number = 0
        while text.peek() != "]":
            if number:
                text.take(",")
            decoder.usable = True
            value = text.take_value(decoder)
            where = f"{location}: element {number}"
            number += 1
            if not decoder.usable:
                yield BadRow(where, _UNUSABLE)
            elif not isinstance(value, dict):
                yield BadRow(where, f"a JSON {type(value).__name__}; every element must be one JSON object")
            else:
                yield Record(where, value)
        text.take("]")
        if not number:
            raise SourceError(f"{location}: the file is empty, an array without elements", code="EMPTY_FILE")
        if text.peek():
            raise SourceError(f"{location}: no valid JSON (more after the end of the array)", code="INVALID_JSON")


class _TextBuffer:
    """The text of a file, read as far as it is parsed."""

    def __init__(self, stream: io.BufferedReader, location: str) -> None:
        without_mark(stream.peek(4)[:4], location)
        # Bytes that are not UTF-8 become half surrogate pairs, so they cost only the row that has them.
        self._reader = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        self._location = location
        self._text, self._position, self._ended = "", 0, False

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in " \t\r\n":
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self, character: str) -> None:
        """Step over a character."""
        if self.peek() != character:
            raise self._error(f"no {character!r} where one is needed")
        self._position += 1

    def take_value(self, decoder: json.JSONDecoder) -> Any:
        """Parse the next value and step over it."""
        self.peek()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if len(self._text) - self._position > MAX_LINE_BYTES or not self._read_more():
                    raise self._error(error.msg) from None
                continue
            except RecursionError:
                raise self._error("nested too deep") from None
            # A number that ends where the text ends may have more digits.
            if end < len(self._text) or not self._read_more():
                self._position = end
                return value

    def _read_more(self) -> bool:
        """Read on, each time twice as far, so that a long value is not parsed too often."""
        if self._ended:
            return False
        self._text = self._text[self._position :]
        self._position = 0
        more = self._reader.read(max(_READ_CHARACTERS, len(self._text)))
        self._ended = not more
        self._text += more
        return not self._ended

    def _error(self, problem: str) -> SourceError:
        near = self._text[self._position : self._position + 40]
        hint = "; is the file cut short?" if self._ended else ""
        return SourceError(f"{self._location}: no valid JSON ({problem}, near {near!r}){hint}", code="INVALID_JSON")
