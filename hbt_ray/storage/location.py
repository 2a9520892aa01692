"""Locations: a path, or a URI (`s3://`, `gs://`, `az://`, `file://`), and reading and writing there.

A file that is written through a `Folder` appears complete or not at all. Local files, whether given by a path (`/x`) or
a URI (`file:///x`), are written and deleted by `hbt_ray.storage`. An object store publishes a file when its upload is
closed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar, cast

import pyarrow as pa
from pyarrow import fs
from pydantic import BeforeValidator

from hbt_ray.storage.atomic import atomic_file, remove_tree
from hbt_ray.storage.object_store import filesystem, is_uri, naming_connection_errors, with_retries, without_options
from hbt_ray.storage.storage_errors import naming_storage_errors

logger = logging.getLogger(__name__)

T = TypeVar("T")
Location = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""A path or a URI, as a string: a `Path` would turn `s3://bucket` into `s3:/bucket`."""

_recorded: ContextVar[dict[str, str] | None] = ContextVar("_recorded", default=None)


def join_location(folder: str, file: str) -> str:
    """The location of a file in a folder; the options of a URI stay at its end."""
    head = without_options(folder)
    return f"{head.rstrip('/')}/{file}{folder[len(head) :]}"


def absolute(location: str) -> str:
    """The location as an absolute path; a URI is unchanged."""
    return location if is_uri(location) else str(Path(location).absolute())


@contextmanager
def recording_checksums() -> Iterator[dict[str, str]]:
    """Yield a dict that receives location → SHA-256 of every file that the block writes through a `Folder`."""
    checksums: dict[str, str] = {}
    token = _recorded.set(checksums)
    try:
        yield checksums
    finally:
        _recorded.reset(token)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder at a location. Names of its files may contain slashes."""

    location: str

    def __truediv__(self, name: str) -> Folder:
        return Folder(join_location(self.location, name))

    def __str__(self) -> str:
        return self.location

    @property
    def local(self) -> Path | None:
        """The path on this machine; None in an object store."""
        if not is_uri(self.location):
            return Path(self.location)
        with naming_connection_errors(self.location):
            system, path = filesystem(self.location)
        return Path(path) if isinstance(system, fs.LocalFileSystem) else None

    def exists(self, name: str) -> bool:
        """Whether the folder contains a file or folder of this name."""
        with naming_connection_errors(self.location):
            system, path = filesystem(self.location, name)
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def names(self) -> list[str]:
        """Sorted names of the files and folders directly in this folder; empty if it does not exist."""
        path = self.local
        if path is not None:  # Arrow would leave out broken symbolic links.
            return sorted(os.listdir(path)) if path.is_dir() else []
        with naming_connection_errors(self.location):
            system, remote_path = filesystem(self.location)
            infos = system.get_file_info(fs.FileSelector(remote_path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def read(self, name: str) -> bytes:
        """Read a file. Requests to an object store are repeated after temporary errors.

        Raises:
            OSError: a file on this machine cannot be read, or there is no such file.
            StoreError: the object store does not answer.
        """
        if (path := self.local) is not None:
            return (path / name).read_bytes()
        with naming_connection_errors(self.location):
            system, remote_path = filesystem(self.location, name)

        def read() -> bytes:
            # Without `compression=None` Arrow would unpack a file whose name ends with `.gz`.
            with system.open_input_stream(remote_path, compression=None) as stream:
                return bytes(stream.read())

        return with_retries(read, join_location(self.location, name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file; see `create`."""
        with self.create(name) as stream:
            stream.write(content)

    @contextmanager
    def create(self, name: str) -> Iterator[HashingWriter]:
        """Yield a stream for the bytes of a file, which appears or is replaced once the block succeeds.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        path = self.local
        if path is None:
            with self._upload(name) as stream:
                yield stream
        else:
            with atomic_file(path / name) as scratch, scratch.open("wb") as file:
                stream = HashingWriter(file)
                yield stream
        # Set within `recording_checksums` only.
        if (checksums := _recorded.get()) is not None:
            # After the block: the file is complete and in place.
            checksums[join_location(self.location, name)] = stream.hexdigest()

    @contextmanager
    def _upload(self, name: str) -> Iterator[HashingWriter]:
        location = join_location(self.location, name)
        with naming_storage_errors(location), naming_connection_errors(location):
            system, path = filesystem(self.location, name)
            # Without `compression=None` Arrow would pack a file whose name ends with `.gz`.
            upload = system.open_output_stream(path, compression=None)
            try:
                yield HashingWriter(upload)
            # KeyboardInterrupt included: no interrupted upload may stay.
            except BaseException:
                with suppress(OSError):  # Closing publishes the incomplete file, so it is deleted.
                    upload.close()
                    system.delete_file(path)
                raise
            upload.close()

    @contextmanager
    def create_arrow(
        self, name: str, schema: pa.Schema, compression: str | None = "lz4"
    ) -> Iterator[pa.RecordBatchFileWriter]:
        """Yield a writer for the record batches of an Arrow IPC file; see `create`."""
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with (
            self.create(name) as stream,
            pa.ipc.new_file(pa.PythonFile(cast(BinaryIO, stream), "w"), schema, options=options) as writer,
        ):
            yield writer

    def open_arrow(self, name: str) -> pa.RecordBatchFileReader:
        """A reader of an Arrow IPC file, which is memory-mapped on this machine."""
        system, path = filesystem(self.location, name)
        is_local = isinstance(system, fs.LocalFileSystem)
        return pa.ipc.open_file(pa.memory_map(path) if is_local else system.open_input_file(path))

    def remove(self) -> None:
        """Delete the folder with its content, or the file at this location. A missing one is ignored.

        A symbolic link is deleted, but not its target.
        """
        path = self.local
        if path is not None:
            with naming_storage_errors(path):
                remove_tree(path)
            return
        with naming_connection_errors(self.location):
            system, remote_path = filesystem(self.location)
            file_type = system.get_file_info(remote_path).type
            if file_type == fs.FileType.Directory:
                system.delete_dir(remote_path)
            elif file_type == fs.FileType.File:
                system.delete_file(remote_path)


class HashingWriter(io.RawIOBase):
    """Passes bytes on to a stream and hashes them, so that the file need not be read again for its checksum."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._hash, self._position = stream, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    # Arrow needs the position for the offsets in a file's footer.
    def tell(self) -> int:
        return self._position

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self._stream.write(content)
        self._position += len(content)
        return len(content)

    def hexdigest(self) -> str:
        """SHA-256 of the bytes so far."""
        return self._hash.hexdigest()
