"""Files at a location (`hbt_ray.storage.location`): which there are, their bytes unpacked, their lines.

Packed files are known by their names: `.gz`, `.bz2`, `.xz` and `.zst`. A line ends at a line feed and nowhere else:
U+2028 or a form feed inside a text splits nothing. A carriage return before it and a byte order mark at the start are
dropped, blank lines are skipped. One line is held at a time.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from hbt_ray.data.formats.source_row import BadRow
from hbt_ray.errors import LocationError, SourceError
from hbt_ray.storage.location import filesystem, is_uri, join_location, without_options

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20
"""No text is this long; a file with such a line is no text file, and reading on would fill the memory."""
MAX_RATIO, MIN_UNPACKED_BYTES = 100, 4 << 20
"""Texts shrink to a tenth or, at best, a thirtieth: what grows more than this on unpacking, beyond so many bytes, is
made to fill memory or time (a "bomb")."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
PLAIN_OR_PACKED = ("", *PACKED)
JSON_LINES = tuple(f".jsonl{packed}" for packed in PLAIN_OR_PACKED)
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Hive's folder name for null."""
_BLANK = (b"\n", b"\r\n")
_MAX_NAMED = 8
"""Files that one warning names."""
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


class Line(NamedTuple):
    where: str
    text: str


def lines(location: str) -> Iterator[Line | BadRow]:
    """Every line that is not blank; one that is no UTF-8 is a bad row.

    Raises:
        SourceError: the file is missing, empty, cut short, not packed in spite of its name, or no text at all.
    """
    empty = True
    for number, raw in raw_lines(location):
        if raw in _BLANK:
            continue
        where = f"{location}:{number}"
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


def raw_lines(location: str) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every line, without a byte order mark.

    Raises:
        SourceError: as `lines`, but for an empty file.
    """
    with opened(location) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), start=1):
            if len(raw) == MAX_LINE_BYTES:
                raise SourceError(
                    f"{location}:{number}: a line of over {MAX_LINE_BYTES >> 20} MiB; is this a text file?"
                )
            yield number, without_mark(raw, location) if number == 1 else raw


def without_mark(raw: bytes, location: str) -> bytes:
    """The first bytes of a file without UTF-8's byte order mark.

    Raises:
        SourceError: the mark is that of another encoding.
    """
    for mark, encoding in _OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            raise SourceError(f"{location}: no UTF-8 text but {encoding}; convert the file first")
    return raw.removeprefix(b"\xef\xbb\xbf")


@contextmanager
def opened(location: str) -> Iterator[io.BufferedReader]:
    """A file's bytes, unpacked where its name says that they are packed.

    Raises:
        SourceError: the file is missing or cannot be read, also when only a later part of it cannot.
    """
    with explained(location):
        system, path = filesystem(location)
        info = system.get_file_info(path)
        if info.type not in (fs.FileType.File, fs.FileType.NotFound):  # Opening a named pipe would wait for ever.
            raise SourceError(f"{location}: cannot be read (a folder, or no regular file)")
        with io.BufferedReader(system.open_input_stream(path, compression=None), 1 << 20) as raw:
            stream = _unpacked(raw, without_options(location).lower())
            if stream is raw:
                yield raw
            else:
                yield io.BufferedReader(_Bounded(stream, location, info.size or 0), 1 << 20)


def _unpacked(raw: io.BufferedReader, file: str) -> Any:
    if file.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if file.endswith(".bz2"):
        return bz2.BZ2File(raw)
    if file.endswith(".xz"):
        return lzma.LZMAFile(raw)
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") if file.endswith(".zst") else raw


class _Bounded(io.RawIOBase):
    """Unpacked bytes, as long as they are not suspiciously many."""

    def __init__(self, stream: BinaryIO, location: str, packed_bytes: int) -> None:
        self._stream, self._location = stream, location
        self._left = max(MIN_UNPACKED_BYTES, MAX_RATIO * packed_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise SourceError(
                f"{self._location}: unpacks to more than {MAX_RATIO} times its size, which no text does; if it is "
                "sound, unpack it yourself and name the unpacked file",
                code="BOMB",
            )
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Whatever goes wrong with a file becomes a `SourceError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{location}: no such file") from None
    except LocationError as error:
        raise SourceError(str(error), code=error.code) from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeError) as error:
        raise SourceError(f"{location}: cannot be read ({' '.join(str(error).split())[:500]})") from None


def files_of(location: str, wanted: Callable[[str], bool]) -> list[str]:
    """The file itself, or those directly in a folder whose names are `wanted`, in the order of their names.

    Hidden files, such as macOS's `._docs-0.jsonl.gz`, are never wanted.

    Raises:
        SourceError: there is no such file, or a folder without any.
    """
    with explained(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            return [location]
        found = system.get_file_info(fs.FileSelector(path)) if kind == fs.FileType.Directory else []
    names = (info.base_name for info in found if info.is_file)
    files = sorted(name for name in names if not name.startswith(".") and wanted(name))
    if not files:
        raise SourceError(f"{location}: no such file, or a folder that holds none of the right kind")
    return [join_location(location, file) for file in files]


class DataFile(NamedTuple):
    """A file of rows."""

    location: str
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns that the folders above it hold, as `lang=de/part-0.parquet` does."""


def data_files(location: str, readable: Callable[[str], bool], formats: str) -> list[DataFile]:
    """The file itself, or all readable ones below a folder, in the order of their paths.

    Subfolders are read too; each `key=value` among them is a column (Hive's partitions). Hidden files and the marks of
    other programs (`_SUCCESS`, `_temporary`) are passed over. All other files are named in a warning.

    Args:
        readable: whether a file is one of rows, by its name in lower case.
        formats: what is readable, for errors.

    Raises:
        SourceError: there is no such file, a folder without any, or a table whose log says which files count.
    """
    with explained(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            return [DataFile(location)]
        if kind != fs.FileType.Directory:
            problem = "no such file or folder" if kind == fs.FileType.NotFound else "no regular file and no folder"
            raise SourceError(f"{location}: {problem}")
        paths = [found.path for found in _walk(location)]
    if log := next((each for each in paths if "_delta_log" in each.split("/")), None):
        raise SourceError(
            f"{location}: a Delta Lake table ({log}), some of whose files are no longer part of it; export it first"
        )
    kept, others = [], []
    for each in paths:
        file = each.rpartition("/")[2].lower()
        is_mark = any(part.startswith("_") for part in each.split("/"))
        if readable(file) and not is_mark:
            kept.append(each)
        elif readable(file) or not is_mark:
            others.append(each)
    named = ", ".join(others[:_MAX_NAMED]) + (
        f" and {len(others) - _MAX_NAMED} more" if len(others) > _MAX_NAMED else ""
    )
    if not kept:
        there = f"; it has {named}" if others else ""
        raise SourceError(f"{location}: no such file, or a folder that holds none of the right kind ({formats}){there}")
    if others:
        logger.warning("%s: %d files are no rows and left out: %s", location, len(others), named)
    return [DataFile(_below(location, each), _partition(each)) for each in kept]


def _below(folder: str, path: str) -> str:
    return join_location(folder, quote(path, safe="/=:@!$&'()*+,;~") if is_uri(folder) else path)


def _partition(path: str) -> tuple[tuple[str, str | None], ...]:
    pairs = (part.partition("=") for part in path.split("/")[:-1] if "=" in part)
    return tuple((unquote(key), None if value == NO_PARTITION else unquote(value)) for key, _, value in pairs)


class _Found(NamedTuple):
    path: str
    """Below the folder, with slashes."""
    size: int | None
    mtime_ns: int | None


def _walk(location: str) -> list[_Found]:
    """All files below a folder that are not hidden, in the order of their paths."""
    system, root = filesystem(location)
    if isinstance(system, fs.LocalFileSystem):
        return sorted(_walk_local(Path(root), "", set()))
    infos = system.get_file_info(fs.FileSelector(root, recursive=True))
    found = (_Found(info.path[len(root.rstrip("/")) + 1 :], info.size, info.mtime_ns) for info in infos if info.is_file)
    return sorted(each for each in found if not any(part.startswith(".") for part in each.path.split("/")))


def _walk_local(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[_Found]:
    """Links are followed, but each folder is read once: they may form a ring."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        logger.warning("%s: leads to a folder that was read already; passed over", folder)
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if any("\ud800" <= character <= "\udfff" for character in entry.name):
            raise SourceError(f"{folder}: the file name {entry.name!r} is no text in UTF-8; rename it")
        try:
            status = entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                raise
            logger.warning("%s: a link that leads nowhere (%s); passed over", folder / entry.name, error.strerror)
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk_local(folder / entry.name, f"{prefix}{entry.name}/", seen)
        elif stat.S_ISREG(status.st_mode):
            yield _Found(prefix + entry.name, status.st_size, status.st_mtime_ns)


def first_of(folder: str, *names: str) -> str:
    """The first of these files that a folder has.

    Raises:
        SourceError: it has none of them.
    """
    for location in (join_location(folder, file) for file in names):
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
        if info.type != fs.FileType.Directory:
            return [(info.path, info.size, info.mtime_ns)]
        return [(f"{path.rstrip('/')}/{found.path}", found.size, found.mtime_ns) for found in _walk(location)]
