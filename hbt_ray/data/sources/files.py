"""Files at a location (`hbt_ray.data.store.location`), plain or gzip, read as lines.

A line ends at a line feed and nowhere else: U+2028 or a form feed inside a text splits nothing. A carriage return
before it and a byte order mark at the start are dropped, blank lines are skipped. One line is held at a time.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import pyarrow as pa
from pyarrow import fs

from hbt_ray.data.sources.rows import BadRow
from hbt_ray.data.store.location import child, filesystem, name
from hbt_ray.errors import SourceError

MAX_LINE_BYTES = 64 << 20
"""No text is this long; a file with such a line is no text file, and reading on would fill the memory."""

_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


class Line(NamedTuple):
    where: str
    text: str


def lines(location: str) -> Iterator[Line | BadRow]:
    """Every line that is not blank; one that is no UTF-8 is a bad row.

    Raises:
        SourceError: the file is missing, empty, cut short, no gzip in spite of its name, or no text at all.
    """
    empty = True
    with opened(location) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), start=1):
            where = f"{location}:{number}"
            if len(raw) == MAX_LINE_BYTES:
                raise SourceError(f"{where}: a line of over {MAX_LINE_BYTES >> 20} MiB; is this a text file?")
            if number == 1:
                raw = _without_mark(raw, location)
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                empty = False
                yield BadRow(where, f"no UTF-8 text ({error.reason})")
                continue
            if text.strip():
                empty = False
                yield Line(where, text)
    if empty:
        raise SourceError(f"{location}: the file is empty")


def _without_mark(raw: bytes, location: str) -> bytes:
    for mark, encoding in _OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            raise SourceError(f"{location}: no UTF-8 text but {encoding}; convert the file first")
    return raw.removeprefix(b"\xef\xbb\xbf")


@contextmanager
def opened(location: str) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked where its name ends in `.gz`.

    Raises:
        SourceError: the file is missing or cannot be read, also when only a later part of it cannot.
    """
    with explained(location), _open(location) as raw:
        yield gzip.GzipFile(fileobj=raw) if name(location).endswith(".gz") else raw  # type: ignore[misc]  # typeshed


def _open(location: str) -> BinaryIO:
    system, path = filesystem(location)
    return io.BufferedReader(system.open_input_stream(path, compression=None), 1 << 20)


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Whatever goes wrong with a file becomes a `SourceError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{location}: no such file") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise SourceError(f"{location}: cannot be read ({' '.join(str(error).split())})") from None


def files_of(location: str, wanted: Callable[[str], bool]) -> list[str]:
    """The file itself, or those of a folder whose names are `wanted`, in the order of their names.

    Raises:
        SourceError: there is no such file, or a folder without any.
    """
    with explained(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            return [location]
        found = system.get_file_info(fs.FileSelector(path)) if kind == fs.FileType.Directory else []
    files = sorted(info.base_name for info in found if info.is_file and wanted(info.base_name))
    if not files:
        raise SourceError(f"{location}: no such file, or a folder that holds none of the right kind")
    return [child(location, file) for file in files]


def first_of(folder: str, *names: str) -> str:
    """The first of these files that a folder has.

    Raises:
        SourceError: it has none of them.
    """
    for location in (child(folder, file) for file in names):
        with explained(location):
            system, path = filesystem(location)
            if system.get_file_info(path).is_file:
                return location
    raise SourceError(f"{folder}: holds no {' or '.join(names)}")


def fingerprint(location: str) -> list[tuple[str, int | None, int | None]]:
    """Path, size and time of change of every file there: two runs over equal ones read the same bytes."""
    with explained(location):
        system, path = filesystem(location)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return [(location, None, None)]
        infos = [info] if info.is_file else system.get_file_info(fs.FileSelector(path, recursive=True))
    return sorted((info.path, info.size, info.mtime_ns) for info in infos)
