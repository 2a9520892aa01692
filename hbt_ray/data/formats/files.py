"""Files at a location (`hbt_ray.storage.location`): listing them, reading their unpacked bytes and their lines.

Packed files are recognised by their names: `.gz`, `.bz2`, `.xz` and `.zst`. A line ends at a line feed and nowhere
else: U+2028 or a form feed inside a text splits nothing. A carriage return before the line feed and a byte order mark
at the start are dropped, and blank lines are skipped. Memory holds one line at a time.
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
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from hbt_ray.data.formats.source_row import BadRow
from hbt_ray.errors import LocationError, SourceError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.storage.location import filesystem, is_uri, join_location, without_options

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20
"""Longest line. A file with a longer one is not a text file, and reading on would fill the memory."""
MAX_RATIO, MIN_UNPACKED_BYTES = 100, 4 << 20
"""Largest ratio of unpacked to packed bytes, checked beyond `MIN_UNPACKED_BYTES`. Texts shrink to a tenth or, at best,
a thirtieth; a larger ratio means a decompression bomb."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
PLAIN_OR_PACKED = ("", *PACKED)
JSON_LINES = tuple(f"*.jsonl{packed}" for packed in PLAIN_OR_PACKED)
"""Patterns for `files_of`."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Hive's folder name for null."""
_BLANK_LINES = (b"\n", b"\r\n")
_MAX_LISTED = 8
"""Number of files that one warning lists."""
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


class Line(NamedTuple):
    """A line of text."""

    where: str
    """File and number of the line."""
    text: str
    """The line without its end."""


def lines(location: str) -> Iterator[Line | BadRow]:
    """Every line that is not blank; a line that is not UTF-8 is a bad row.

    Raises:
        SourceError: the file is missing, empty, cut short, not packed in spite of its name, or not a text file.
    """
    is_empty = True
    for number, raw in raw_lines(location):
        if raw in _BLANK_LINES:
            continue
        where = f"{location}:{number}"
        try:
            text = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            is_empty = False
            yield BadRow(where, f"no UTF-8 text ({error.reason})")
            continue
        if text.strip():
            is_empty = False
            yield Line(where, text)
    if is_empty:
        raise SourceError(f"{location}: the file is empty", code="EMPTY_FILE")


def raw_lines(location: str) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every line, without a byte order mark.

    Raises:
        SourceError: as `lines`, except for an empty file.
    """
    with opened(location) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), start=1):
            if len(raw) == MAX_LINE_BYTES:
                raise SourceError(
                    f"{location}:{number}: a line of over {MAX_LINE_BYTES >> 20} MiB; is this a text file?",
                    code="LONG_LINE",
                )
            yield number, without_mark(raw, location) if number == 1 else raw


def without_mark(raw: bytes, location: str) -> bytes:
    """The first bytes of a file without UTF-8's byte order mark.

    Raises:
        SourceError: the mark is that of another encoding.
    """
    for mark, encoding in _OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            raise SourceError(f"{location}: no UTF-8 text but {encoding}; convert the file first", code="ENCODING")
    return raw.removeprefix(b"\xef\xbb\xbf")


@contextmanager
def opened(location: str) -> Iterator[io.BufferedReader]:
    """A file's bytes, unpacked if its name says that they are packed.

    Raises:
        SourceError: the file is missing or cannot be read, or a later part of it cannot.
    """
    with naming_read_errors(location):
        system, path = filesystem(location)
        info = system.get_file_info(path)
        if info.type not in (fs.FileType.File, fs.FileType.NotFound):  # Opening a named pipe would block.
            raise SourceError(f"{location}: cannot be read (a folder, or no regular file)", code="NO_FILE")
        with io.BufferedReader(system.open_input_stream(path, compression=None), 1 << 20) as raw:
            stream = _unpacked(raw, without_options(location).lower())
            if stream is raw:
                yield raw
            else:
                yield io.BufferedReader(_BoundedStream(stream, location, info.size or 0), 1 << 20)


def _unpacked(raw: io.BufferedReader, file: str) -> Any:
    if file.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if file.endswith(".bz2"):
        return bz2.BZ2File(raw)
    if file.endswith(".xz"):
        return lzma.LZMAFile(raw)
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") if file.endswith(".zst") else raw


class _BoundedStream(io.RawIOBase):
    """Unpacked bytes; raises `SourceError` if there are suspiciously many."""

    def __init__(self, stream: BinaryIO, location: str, packed_bytes: int) -> None:
        self._stream, self._location = stream, location
        self._remaining = max(MIN_UNPACKED_BYTES, MAX_RATIO * packed_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._remaining -= len(content)
        if self._remaining < 0:
            raise SourceError(
                f"{self._location}: unpacks to more than {MAX_RATIO} times its size, which no text does; if it is "
                "sound, unpack it yourself and name the unpacked file",
                code="BOMB",
            )
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def naming_read_errors(location: str) -> Iterator[None]:
    """Turn errors of reading a file into a `SourceError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{location}: no such file", code="NO_FILE") from None
    except LocationError as error:
        raise SourceError(str(error), code=error.code) from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise SourceError(f"{location}: cannot be read ({reason})", code="UNREADABLE_FILE") from None


def files_of(location: str, *patterns: str) -> list[str]:
    """The file itself, or the files directly in a folder whose names match a pattern such as `*.json`, sorted by name.

    Hidden files, such as `._docs-0.jsonl.gz` of macOS, are left out.

    Raises:
        SourceError: there is no such file, or a folder without any.
    """
    with naming_read_errors(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            return [location]
        infos = system.get_file_info(fs.FileSelector(path)) if kind == fs.FileType.Directory else []
    names = (info.base_name for info in infos if info.is_file and not info.base_name.startswith("."))
    files = sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if not files:
        raise SourceError(
            f"{location}: no such file, or a folder without {patterns[0]}; check the path, or put the files there",
            code="NO_FILE",
        )
    return [join_location(location, file) for file in files]


class DataFile(NamedTuple):
    """A file of records."""

    location: str
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns given by the names of its folders, as in `lang=de/part-0.parquet`."""


def data_files(location: str, is_readable: Callable[[str], bool], formats: str) -> list[DataFile]:
    """The file itself, or all readable files below a folder, sorted by path.

    Subfolders are read too; each `key=value` among their names is a column (Hive's partitions). Hidden files and the
    marker files of other programs (`_SUCCESS`, `_temporary`) are skipped. A warning lists all other files.

    Args:
        is_readable: whether a file holds records, by its name in lower case.
        formats: what is readable, for errors.

    Raises:
        SourceError: there is no such file, a folder without any, or a Delta Lake table.
    """
    with naming_read_errors(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            return [DataFile(location)]
        if kind != fs.FileType.Directory:
            problem = "no such file or folder" if kind == fs.FileType.NotFound else "no regular file and no folder"
            raise SourceError(f"{location}: {problem}", code="NO_FILE")
        paths = [found.path for found in _walk(location)]
    if log := next((path for path in paths if "_delta_log" in path.split("/")), None):
        raise SourceError(
            f"{location}: a Delta Lake table ({log}), some of whose files are no longer part of it; export it first",
            code="DELTA_LAKE",
        )
    kept, others = [], []
    for path in paths:
        file = path.rpartition("/")[2].lower()
        is_marker = any(part.startswith("_") for part in path.split("/"))
        if is_readable(file) and not is_marker:
            kept.append(path)
        elif is_readable(file) or not is_marker:
            others.append(path)
    more = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
    listed = ", ".join(others[:_MAX_LISTED]) + more
    if not kept:
        content = f"; it has {listed}" if others else ""
        raise SourceError(
            f"{location}: no such file, or a folder that holds none of the right kind ({formats}){content}",
            code="NO_FILE",
        )
    if others:
        logger.warning("%s: %d files are no rows and left out: %s", location, len(others), listed)
    return [DataFile(_location_in(location, path), _partition(path)) for path in kept]


def _location_in(folder: str, path: str) -> str:
    return join_location(folder, quote(path, safe="/=:@!$&'()*+,;~") if is_uri(folder) else path)


def _partition(path: str) -> tuple[tuple[str, str | None], ...]:
    pairs = (part.partition("=") for part in path.split("/")[:-1] if "=" in part)
    return tuple((unquote(key), None if value == NULL_PARTITION else unquote(value)) for key, _, value in pairs)


class _FileInfo(NamedTuple):
    path: str
    """Path within the folder, with slashes."""
    size: int | None
    mtime_ns: int | None


def _walk(location: str) -> list[_FileInfo]:
    """All files below a folder that are not hidden, sorted by path."""
    system, root = filesystem(location)
    if isinstance(system, fs.LocalFileSystem):
        return sorted(_walk_local(Path(root), "", set()))
    infos = system.get_file_info(fs.FileSelector(root, recursive=True))
    start = len(root.rstrip("/")) + 1
    files = (_FileInfo(info.path[start:], info.size, info.mtime_ns) for info in infos if info.is_file)
    return sorted(file for file in files if not any(part.startswith(".") for part in file.path.split("/")))


def _walk_local(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[_FileInfo]:
    """Follows links, but reads each folder once, because links may form a ring."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        logger.warning("%s: leads to a folder that was read already; skipped", folder)
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if any("\ud800" <= character <= "\udfff" for character in entry.name):
            raise SourceError(
                f"{folder}: the file name {entry.name!r} is not text in UTF-8; rename the file", code="FILE_NAME"
            )
        try:
            status = entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                raise
            logger.warning("%s: a link that leads nowhere (%s); skipped", folder / entry.name, error.strerror)
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk_local(folder / entry.name, f"{prefix}{entry.name}/", seen)
        elif stat.S_ISREG(status.st_mode):
            yield _FileInfo(prefix + entry.name, status.st_size, status.st_mtime_ns)


def first_of(folder: str, *names: str) -> str:
    """The location of the first of these files that exists in a folder.

    Raises:
        SourceError: the folder has none of them.
    """
    for location in (join_location(folder, file) for file in names):
        with naming_read_errors(location):
            system, path = filesystem(location)
            if system.get_file_info(path).is_file:
                return location
    raise SourceError(f"{folder}: holds no {' or '.join(names)}", code="NO_FILE")


def file_states(location: str) -> list[tuple[str, int | None, int | None]]:
    """Path, size in bytes and time of change of every file at a location; equal ones mean equal bytes."""
    with naming_read_errors(location):
        system, path = filesystem(location)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return [(location, None, None)]
        if info.type != fs.FileType.Directory:
            return [(info.path, info.size, info.mtime_ns)]
        return [(f"{path.rstrip('/')}/{file.path}", file.size, file.mtime_ns) for file in _walk(location)]


def tag_of_code(code: str, where: str) -> str:
    """The canonical tag of a language code in a file.

    Raises:
        SourceError: the code is not a language.
    """
    try:
        return normalise_tag(code)
    except ValueError as error:
        raise SourceError(f"{where}: {error}", code="INVALID_LANGUAGE") from None


def code_by_language(codes: Iterable[str], where: str) -> dict[str, str]:
    """Language → how the files of a benchmark spell it.

    Raises:
        SourceError: a code is not a language, or two codes stand for one language, so one would replace the other.
    """
    code_by_tag: dict[str, str] = {}
    for code in codes:
        tag = tag_of_code(code, where)
        if tag in code_by_tag:
            raise SourceError(
                f"{where}: {code_by_tag[tag]} and {code} are both {tag!r}; remove one of them", code="LANGUAGE_TWICE"
            )
        code_by_tag[tag] = code
    return code_by_tag


def selected_languages(selected: Collection[str], present: Collection[str], where: str) -> list[str]:
    """The selected languages of a benchmark, or all if none are selected; sorted.

    Raises:
        SourceError: a selected language is not present.
    """
    if missing := sorted(set(selected) - set(present)):
        raise SourceError(
            f"{where}: nothing is in {missing[0]!r}; its languages are {', '.join(sorted(present)) or 'none'}",
            code="MISSING_LANGUAGE",
        )
    return sorted(selected or present)
