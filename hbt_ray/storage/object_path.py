"""Files of an object store, with the methods of `pathlib.Path` that runs need.

An object store has neither folders nor renames nor appends: a file is one object, which a request replaces as a whole.
A read may miss an object that another process has just written, and a listing may be incomplete or out of order; where
either would change a result, callers say that the file must exist.
"""

from __future__ import annotations

import io
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast
from urllib.parse import quote, unquote

from hbt_ray.errors import StorageError, StoreError, redact

T = TypeVar("T")
_CHUNK_BYTES = 8 << 20
_SAFE = "/=,+@:~!$&'()*;"
"""Characters of a key that a URI shows as they are."""


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """A file of an object store, or a prefix of the names of several files."""

    bucket: str
    """URI of the bucket with its options, such as `s3://bucket?region=eu`."""
    key: str
    """Name in the bucket, with slashes."""

    @classmethod
    def parse(cls, uri: str) -> ObjectPath:
        """The path of a URI such as `s3://bucket/runs/a?region=eu`."""
        head, mark, options = uri.partition("?")
        scheme, _, rest = head.partition("://")
        name, _, key = rest.partition("/")
        return cls(f"{scheme}://{name}{mark}{options}", unquote(key).strip("/"))

    def __str__(self) -> str:
        head, mark, options = self.bucket.partition("?")
        return f"{head}/{quote(self.key, safe=_SAFE)}{mark}{options}"

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def absolute(self) -> ObjectPath:
        return self

    def exists(self) -> bool:
        """Whether there is a file of this name. A prefix of other files does not exist."""
        return self.size() is not None

    def size(self) -> int | None:
        """Bytes of the file; None if there is none."""
        info = self._request(lambda system, path: system.get_file_info(path), "read")
        return int(info.size) if info.is_file else None

    def modified(self) -> float | None:
        """Time of the last write by the clock of the object store, in seconds since the epoch; None without a file."""
        info = self._request(lambda system, path: system.get_file_info(path), "read")
        return float(info.mtime.timestamp()) if info.is_file else None

    def names(self) -> list[str]:
        """Sorted names of files and prefixes directly below this one; a recent one may be missing."""
        from pyarrow import fs

        infos = self._request(
            lambda system, path: system.get_file_info(fs.FileSelector(path, allow_not_found=True)), "read"
        )
        return sorted(info.base_name for info in infos)

    def read_bytes(self, *, expected: bool = False) -> bytes:
        """Read the file.

        Args:
            expected: the file was written, so a read that misses it is repeated as after any temporary error.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the object store does not answer.
        """

        def read(system: Any, path: str) -> bytes:
            # Without `compression=None` Arrow would unpack a file whose name ends with `.gz`.
            with system.open_input_stream(path, compression=None) as stream:
                return bytes(stream.read())

        return self._request(read, "read", expected=expected)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> io.BytesIO:
        """The whole content as a stream."""
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, content: bytes) -> None:
        """Create or replace the file.

        Raises:
            StorageError: it cannot be written; the previous content is unchanged.
        """

        def write(system: Any, path: str) -> None:
            stream = system.open_output_stream(path, compression=None)
            # One write, then close: after an error of an upload, closing fails too and nothing is published.
            stream.write(content)
            stream.close()

        self._request(write, "write")

    def upload(self, source: Path) -> None:
        """Create or replace the file with the content of a local one, which may be larger than the memory."""

        def write(system: Any, path: str) -> None:
            stream = system.open_output_stream(path, compression=None)
            with source.open("rb") as file:
                shutil.copyfileobj(file, cast(BinaryIO, stream), _CHUNK_BYTES)
            stream.close()

        self._request(write, "write")

    def download(self, target: Path) -> None:
        """Copy the file, which must exist, to a local one."""

        def read(system: Any, path: str) -> None:
            with system.open_input_stream(path, compression=None) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK_BYTES)

        self._request(read, "read", expected=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        try:
            self._request(lambda system, path: system.delete_file(path), "write")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Delete the file and all files below this prefix."""

        def remove(system: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                system.delete_dir(path)

        self._request(remove, "write")
        self.unlink(missing_ok=True)

    def filesystem(self) -> tuple[Any, str]:
        """The `pyarrow.fs` file system and the path in it, as Ray takes them.

        Raises:
            LocationError: the scheme is not supported.
        """
        system, name = _open_bucket(self.bucket)
        return system, f"{name}/{self.key}" if self.key else name

    def _request(self, request: Callable[[Any, str], T], kind: str, *, expected: bool = False) -> T:
        """Return the result of a request, which is repeated after errors that may be temporary."""
        from hbt_ray.storage.object_store import with_retries

        system, path = self.filesystem()
        try:
            return with_retries(lambda: request(system, path), redact(str(self)), missing_is_temporary=expected)
        except StoreError as error:
            if kind == "read":
                raise
            raise StorageError(redact(str(self)), str(error.__cause__ or error)) from None


@lru_cache(maxsize=64)
def _open_bucket(bucket: str) -> tuple[Any, str]:
    """The file system of a bucket and the bucket's name in it; a client keeps its connections."""
    from hbt_ray.storage.object_store import filesystem

    if bucket.startswith("s3://"):  # A small file is then one request, and not an upload of several parts.
        bucket += f"{'&' if '?' in bucket else '?'}allow_delayed_open=true"
    system, path = filesystem(bucket)
    return system, path.strip("/")


def check_access(folder: ObjectPath) -> None:
    """Write, read, list and delete a small file, so that missing rights are known before any work is done.

    Raises:
        StorageError, StoreError, LocationError: the object store refuses one of them or does not answer.
    """
    probe = folder / f".access-{secrets.token_hex(4)}"
    probe.write_bytes(b"hbt")
    probe.read_bytes(expected=True)
    folder.names()
    probe.unlink(missing_ok=True)


AnyPath = Path | ObjectPath
"""A file or folder of this machine, or of an object store."""


def as_path(location: str | Path | ObjectPath) -> AnyPath:
    """The path that a location names: `runs/a`, `file:///runs/a`, or `s3://bucket/runs/a`."""
    if not isinstance(location, str):
        return location
    if location.startswith("file://"):
        return Path(unquote(location.removeprefix("file://").partition("?")[0]))
    return ObjectPath.parse(location) if "://" in location else Path(location)
