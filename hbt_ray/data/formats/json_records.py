"""JSON: lines of objects and arrays of objects as streams of records, and whole documents.

One line or one element is held at a time, except for `read_json`, which holds the whole document. A damaged file
raises `SourceError`; so does a damaged array, since the elements after the damage cannot be found.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, TypeVar

from hbt_ray.data.formats.files import (
    MAX_LINE_BYTES,
    Line,
    lines,
    open_unpacked,
    raw_lines,
    without_byte_order_mark,
)
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record, parse_rows
from hbt_ray.errors import SourceError

MAX_JSON_BYTES = 1 << 30
"""Largest document that `read_json` reads, unpacked: Python objects take several times that in memory."""
_UNUSABLE = "no usable JSON: a key that stands twice, too deep, or a number of thousands of digits"
_MAX_DIGITS = 1000
_READ_CHARACTERS = 1 << 20

T = TypeVar("T")


def read_jsonl(location: str) -> Iterator[Record | BadRow]:
    """The records of a file with one JSON object a line; any other line is a bad row."""
    return parse_rows(_parse_line, lines(location))


def read_json_records(location: str) -> Iterator[Record | BadRow]:
    """The records of a `.json` file: an array of objects, or lines of objects."""
    # Only the first character that is not white space matters, so decoding errors do not.
    texts = (raw.decode("utf-8", "replace").strip() for _, raw in raw_lines(location))
    first = next(filter(None, texts), "")
    if first.startswith("["):
        return _read_array(location)
    if first.startswith("{") and first[-1] != "}":
        raise SourceError(
            f"{location}: one JSON object over several lines, where an array or a line for each row is needed; "
            "SQuAD's JSON is read by kind: squad",
            code="NOT_ROWS",
        )
    return read_jsonl(location)


def read_json(location: str) -> Any:
    """Read a whole JSON document."""
    with open_unpacked(location) as stream:
        # One byte more than allowed shows that a file is larger, without reading it whole.
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
    """Read a member of a JSON object and check its type.

    Args:
        where: file and path of `node` within the document, for the error.

    Raises:
        BadRowError: `node` is not an object, lacks the key, or holds another type there.
    """
    if not isinstance(node, dict):
        content = type(node).__name__
    elif key not in node:
        content = str(sorted(node)[:20])
    # `bool` is a subclass of `int`.
    elif isinstance(value := node[key], kind) and not (isinstance(value, bool) and kind is int):
        return value
    else:
        content = f"{type(value).__name__} under that key"
    raise BadRowError(where, f"expected an object with {key!r} ({kind.__name__}), got {content}")


def _parse_line(line: Line) -> Record:
    try:
        values = json.loads(line.text, object_pairs_hook=_distinct_keys)
    except json.JSONDecodeError as error:
        reason = f"no valid JSON ({error.msg}); every line must be one JSON object"
        raise BadRowError(line.where, reason) from None
    except (ValueError, RecursionError):
        raise BadRowError(line.where, _UNUSABLE) from None
    return _record(line.where, values)


def _record(where: str, values: Any) -> Record:
    if not isinstance(values, dict):
        raise BadRowError(where, f"a JSON {type(values).__name__}; every row must be one JSON object")
    return Record(where, values)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    # `dict` keeps the last of several values of a key, so the others would be lost without notice.
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


class _TolerantDecoder(json.JSONDecoder):
    """Marks an unusable element and continues, so that the next element can be found."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_int=self._integer)
        self.usable = True

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        self.usable &= len(values) == len(pairs)
        return values

    def _integer(self, digits: str) -> int:
        self.usable &= len(digits) <= _MAX_DIGITS
        # `int` refuses more than 4,300 digits with a `ValueError`, which would end the whole array.
        return int(digits[:_MAX_DIGITS])


def _read_array(location: str) -> Iterator[Record | BadRow]:
    decoder = _TolerantDecoder()

    def parse(element: tuple[int, Any]) -> Record:
        where = f"{location}: element {element[0]}"
        # `elements` is lazy, so the flag still describes this element and not the next one.
        if not decoder.usable:
            raise BadRowError(where, _UNUSABLE)
        return _record(where, element[1])

    with open_unpacked(location) as stream:
        yield from parse_rows(parse, enumerate(_ArrayText(stream, location).elements(decoder)))


class _ArrayText:
    """The text of a JSON array, read as far as it is parsed."""

    def __init__(self, stream: io.BufferedReader, location: str) -> None:
        without_byte_order_mark(stream.peek(4)[:4], location)
        # Bytes that are not UTF-8 become half surrogate pairs, so they cost only the row that has them.
        self._reader = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        self._location = location
        self._text, self._position, self._ended = "", 0, False

    def elements(self, decoder: _TolerantDecoder) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            raise SourceError(f"{self._location}: the file is empty, an array without elements", code="EMPTY_FILE")
        while True:
            decoder.usable = True
            yield self._take_value(decoder)
            if self._peek() == "]":
                break
            self._take(",")
        self._take("]")
        if self._peek():
            raise self._error("more after the end of the array")

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._text[self._position : self._position + 1] in (" ", "\t", "\r", "\n"):
                self._position += 1
            if self._position < len(self._text) or not self._read_more():
                return self._text[self._position : self._position + 1]

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._error(f"no {character!r} where one is needed")
        self._position += 1

    def _take_value(self, decoder: json.JSONDecoder) -> Any:
        self._peek()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                # The value may only be cut off where the text read so far ends.
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
        # Drop the parsed text, so that memory holds one element.
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
