"""Files at a location (`hbt_ray.storage.location`): listing them, reading their unpacked bytes and their lines.

Packed files are recognised by their names: `.gz`, `.bz2`, `.xz` and `.zst`. A line ends at a line feed and nowhere
else: U+2028 or a form feed inside a text splits nothing. A carriage return before the line feed and a byte order mark
at the start are dropped, and blank lines are skipped. Memory holds one line at a time.

All functions raise `SourceError`, which names the file, if a file is missing, cannot be read or is damaged.
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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from hbt_ray.data.formats.source_row import BadRow, has_surrogate
from hbt_ray.errors import LocationError, SourceError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.storage.location import join_location
from hbt_ray.storage.object_store import filesystem, is_uri, without_options

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20
"""Longest line. A file with a longer one is not a text file, and reading on would fill the memory."""
MAX_RATIO, MIN_UNPACKED_BYTES = 100, 4 << 20
"""Largest ratio of unpacked to packed bytes, checked beyond `MIN_UNPACKED_BYTES`. Texts shrink to a tenth or, at best,
a thirtieth; a larger ratio means a decompression bomb."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Hive's folder name for null."""
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_MAX_LISTED = 8
"""Number of files that one warning lists."""
# The byte order mark of UTF-32-LE begins with that of UTF-16-LE, so one entry covers both.
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}

T = TypeVar("T")


class Line(NamedTuple):
    """A line of text."""

    where: str
    """File and number of the line."""
    text: str
    """The line without its end."""


def lines(location: str) -> Iterator[Line | BadRow]:
    """All lines that are not blank. A line that is not UTF-8 becomes a `BadRow`; an empty file raises `SourceError`."""
    is_empty = True
    for number, raw in raw_lines(location):
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
    """Number and bytes of every line, without a byte order mark."""
    with open_unpacked(location) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), start=1):
            # `readline` returns at most this many bytes, so a full piece is the start of a longer line.
            if len(raw) == MAX_LINE_BYTES:
                raise SourceError(
                    f"{location}:{number}: a line of over {MAX_LINE_BYTES >> 20} MiB; is this a text file?",
                    code="LONG_LINE",
                )
            yield number, without_byte_order_mark(raw, location) if number == 1 else raw


def without_byte_order_mark(raw: bytes, location: str) -> bytes:
    """Remove UTF-8's byte order mark from a file's first bytes; the mark of another encoding raises `SourceError`."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            raise SourceError(f"{location}: no UTF-8 text but {encoding}; convert the file first", code="ENCODING")
    return raw.removeprefix(b"\xef\xbb\xbf")


@contextmanager
def open_unpacked(location: str) -> Iterator[io.BufferedReader]:
    """Open a file as a stream of bytes, which are unpacked if its name has the ending of a packed file."""
    with naming_read_errors(location):
        system, path = filesystem(location)
        info = system.get_file_info(path)
        if info.type not in (fs.FileType.File, fs.FileType.NotFound):  # Opening a named pipe would block.
            raise SourceError(f"{location}: cannot be read (a folder, or no regular file)", code="NO_FILE")
        # Without `compression=None` Arrow would unpack by the name itself, without the bound on unpacked bytes.
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
    # Python has no zstd before 3.14, so Arrow unpacks it.
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
        # Arrow's messages may be long and run over several lines.
        reason = " ".join(str(error).split())[:500]
        raise SourceError(f"{location}: cannot be read ({reason})", code="UNREADABLE_FILE") from None


# --- Listing ----------------------------------------------------------------------------------------------------------


def unpacked_name(file: str) -> str:
    """Remove the ending of packed files from a name: `a.tsv.gz` → `a.tsv`."""
    ending = next((ending for ending in _PACKED if file.lower().endswith(ending)), "")
    return file.removesuffix(file[len(file) - len(ending) :])


def matching_files(location: str, *patterns: str) -> dict[str, str]:
    """Unpacked name → location, of the files in a folder that match a pattern, or of a file if the pattern is `*…`.

    The files come in the order of the patterns, then of their names. `*.tsv` matches `a.tsv.gz` too, but a plain file
    replaces its packed copies. A pattern with slashes matches files in subfolders. Hidden files are left out.
    """
    with naming_read_errors(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File and patterns[0].startswith("*"):
            return {unpacked_name(without_options(location).rpartition("/")[2]): location}
        depth = patterns[0].count("/")
        paths = [info.path for info in _walk(location, depth)] if kind == fs.FileType.Directory else []
    matches: dict[str, str] = {}
    for pattern in patterns:
        for file in paths:
            if file.count("/") == depth and fnmatchcase(unpacked_name(file), pattern):
                # Paths are sorted, so `a.tsv` comes before `a.tsv.gz` and is kept.
                matches.setdefault(unpacked_name(file), _location_in(location, file))
    if not matches:
        raise SourceError(
            f"{join_location(location, patterns[0])}: no such file, plain or packed; check the path, or put it there",
            code="NO_FILE",
        )
    return matches


def first_match(folder: str, *patterns: str) -> str:
    """The location of the first of the `matching_files`."""
    return next(iter(matching_files(folder, *patterns).values()))


class DataFile(NamedTuple):
    """A file of records."""

    location: str
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns given by the names of its folders, as in `lang=de/part-0.parquet`."""


def data_files(location: str, is_readable: Callable[[str], bool], formats: str) -> list[DataFile]:
    """The file itself, or all readable files below a folder, sorted by path.

    Each folder `key=value` is a column (Hive's partitions). Hidden files and the marker files of other programs
    (`_SUCCESS`, `_temporary`) are skipped. A warning lists all other files. A Delta Lake table is an error.

    Args:
        is_readable: whether a file holds records, by its name in lower case.
        formats: the readable formats, for error messages.
    """
    with naming_read_errors(location):
        system, path = filesystem(location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            return [DataFile(location)]
        if kind != fs.FileType.Directory:
            problem = "no such file or folder" if kind == fs.FileType.NotFound else "no regular file and no folder"
            raise SourceError(f"{location}: {problem}", code="NO_FILE")
        paths = [info.path for info in _walk(location)]
    # Its files also hold rows that were deleted since; only the log lists the current files.
    if log := next((path for path in paths if "_delta_log" in path.split("/")), None):
        raise SourceError(
            f"{location}: a Delta Lake table ({log}), some of whose files are no longer part of it; export it first",
            code="DELTA_LAKE",
        )
    # Marker files that are not readable are expected, and skipped without a warning.
    kept, others = [], []
    for path in paths:
        readable = is_readable(path.rpartition("/")[2].lower())
        is_marker = any(part.startswith("_") for part in path.split("/"))
        if readable and not is_marker:
            kept.append(path)
        elif readable or not is_marker:
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
    # Names of objects may contain `%`, `?` or `#`, which have a meaning in a URI.
    return join_location(folder, quote(path, safe="/=:@!$&'()*+,;~") if is_uri(folder) else path)


def _partition(path: str) -> tuple[tuple[str, str | None], ...]:
    # Hive percent-encodes keys and values.
    pairs = (part.partition("=") for part in path.split("/")[:-1] if "=" in part)
    return tuple((unquote(key), None if value == NULL_PARTITION else unquote(value)) for key, _, value in pairs)


class _FileInfo(NamedTuple):
    path: str
    """Path within the folder, with slashes."""
    size: int | None
    mtime_ns: int | None


def _walk(location: str, depth: int | None = None) -> list[_FileInfo]:
    """All files below a folder that are not hidden, sorted by path; `depth` limits the levels of subfolders."""
    system, root = filesystem(location)
    if isinstance(system, fs.LocalFileSystem):
        return sorted(_walk_local(root, "", depth, set()))
    infos = system.get_file_info(fs.FileSelector(root, recursive=depth != 0))
    start = len(root.rstrip("/")) + 1  # Where the path within the folder begins.
    files = (_FileInfo(info.path[start:], info.size, info.mtime_ns) for info in infos if info.is_file)
    return sorted(file for file in files if not any(part.startswith(".") for part in file.path.split("/")))


def _walk_local(folder: str, prefix: str, depth: int | None, seen: set[tuple[int, int]]) -> Iterator[_FileInfo]:
    """Files of a local folder. Links are followed, but each folder is read once, because links may form a ring."""
    status = os.stat(folder)
    # Device and inode identify a folder whatever path leads to it.
    if (status.st_dev, status.st_ino) in seen:
        logger.warning("%s: leads to a folder that was read already; skipped", folder)
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if has_surrogate(entry.name):
            raise SourceError(
                f"{folder}: the file name {entry.name!r} is not text in UTF-8; rename the file", code="FILE_NAME"
            )
        try:
            status = entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                raise
            logger.warning("%s: a link that leads nowhere (%s); skipped", entry.path, error.strerror)
            continue
        if stat.S_ISREG(status.st_mode):
            yield _FileInfo(prefix + entry.name, status.st_size, status.st_mtime_ns)
        elif stat.S_ISDIR(status.st_mode) and depth != 0:
            # `depth and depth - 1` keeps None, which means no limit.
            yield from _walk_local(entry.path, f"{prefix}{entry.name}/", depth and depth - 1, seen)


def file_states(location: str) -> list[tuple[str, int | None, int | None]]:
    """Path, size in bytes and time of change of every file at a location, to detect changes."""
    with naming_read_errors(location):
        system, path = filesystem(location)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return [(location, None, None)]
        if info.type != fs.FileType.Directory:
            return [(info.path, info.size, info.mtime_ns)]
        return [(f"{path.rstrip('/')}/{file.path}", file.size, file.mtime_ns) for file in _walk(location)]


# --- Languages --------------------------------------------------------------------------------------------------------


def tag_of_code(code: str, where: str) -> str:
    """The canonical tag of a language code in a file; raises `SourceError` if it is not a language."""
    try:
        return normalise_tag(code)
    except ValueError as error:
        raise SourceError(f"{where}: {error}", code="INVALID_LANGUAGE") from None


def by_language(value_by_code: Mapping[str, T], selected: Collection[str], where: str) -> dict[str, T]:
    """Canonical tag → value, sorted, for the selected languages of a benchmark; for all if none is selected.

    Args:
        value_by_code: language code, as the files spell it → value.
        where: place of the codes, for errors.

    Raises:
        SourceError: a code is not a language, two codes stand for one language, or a selected language is missing.
    """
    codes: dict[str, str] = {}
    for code in value_by_code:
        tag = tag_of_code(code, where)
        if tag in codes:
            raise SourceError(
                f"{where}: {codes[tag]} and {code} are both {tag!r}; remove one of them", code="LANGUAGE_TWICE"
            )
        codes[tag] = code
    tags = {tag_of_code(code, f"{where}: languages") for code in selected} or set(codes)
    if missing := sorted(tags - set(codes)):
        raise SourceError(
            f"{where}: nothing is in {missing[0]!r}; its languages are {', '.join(sorted(codes)) or 'none'}",
            code="MISSING_LANGUAGE",
        )
    return {tag: value_by_code[codes[tag]] for tag in sorted(tags)}
