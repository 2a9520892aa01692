"""The folder: a place for files, on this machine or in an object store, where a file appears whole or not at all.

Files on this machine are written and deleted by `hbt_ray.storage`, whatever the location looks like (`/x`, `file:///x`).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
from pyarrow import fs

from hbt_ray.storage import atomic_file, naming_storage_errors, remove_tree
from hbt_ray.storage.location import filesystem, join_location, local_path, naming_connection_errors

_recorded: ContextVar[dict[str, str] | None] = ContextVar("_recorded", default=None)


@contextmanager
def recording() -> Iterator[dict[str, str]]:
    """Location → SHA-256 of every file that this block writes through a `Folder`."""
    files: dict[str, str] = {}
    token = _recorded.set(files)
    try:
        yield files
    finally:
        _recorded.reset(token)


@dataclass(frozen=True, slots=True)
class Folder:
    """A location and what can be done there; names may hold slashes."""

    location: str

    def __truediv__(self, name: str) -> Folder:
        return Folder(join_location(self.location, name))

    def __str__(self) -> str:
        return self.location

    @property
    def local(self) -> Path | None:
        """The folder on this machine; None in an object store."""
        return local_path(self.location)

    def exists(self, name: str) -> bool:
        with naming_connection_errors(self.location):
            system, path = filesystem(self.location, name)
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def names(self) -> list[str]:
        """Of the files and folders directly here; none where there is no such folder."""
        folder = self.local
        if folder is not None:  # Arrow would leave out links to nothing.
            return sorted(os.listdir(folder)) if folder.is_dir() else []
        with naming_connection_errors(self.location):
            system, path = filesystem(self.location)
            infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def read(self, name: str) -> bytes:
        system, path = filesystem(self.location, name)
        with system.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())

    @contextmanager
    def writing(self, name: str) -> Iterator[Hashing]:
        """A stream for bytes; the file is there once the block has ended, and what stood there before until then.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        folder = self.local
        if folder is None:
            with self._uploading(name) as stream:
                yield stream
        else:
            with atomic_file(folder / name) as scratch, scratch.open("wb") as file:
                stream = Hashing(file)
                yield stream
        if (files := _recorded.get()) is not None:
            files[join_location(self.location, name)] = stream.hexdigest()

    @contextmanager
    def _uploading(self, name: str) -> Iterator[Hashing]:
        location = join_location(self.location, name)
        with naming_storage_errors(location), naming_connection_errors(location):
            system, path = filesystem(self.location, name)
            upload = system.open_output_stream(path, compression=None)
            try:
                yield Hashing(upload)
            except BaseException:
                with suppress(OSError):  # Closing completes the upload, whatever part of the content it has.
                    upload.close()
                    system.delete_file(path)
                raise
            upload.close()

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as stream:
            stream.write(content)

    @contextmanager
    def writing_arrow(
        self, name: str, schema: pa.Schema, compression: str | None = "lz4"
    ) -> Iterator[pa.RecordBatchFileWriter]:
        """An Arrow IPC file, for record batches and tables."""
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with (
            self.writing(name) as stream,
            pa.ipc.new_file(pa.PythonFile(cast(BinaryIO, stream), "w"), schema, options=options) as writer,
        ):
            yield writer

    def arrow(self, name: str) -> pa.RecordBatchFileReader:
        """An Arrow IPC file, memory-mapped where it can be."""
        system, path = filesystem(self.location, name)
        if isinstance(system, fs.LocalFileSystem):
            return pa.ipc.open_file(pa.memory_map(path))
        return pa.ipc.open_file(system.open_input_file(path))

    def remove(self) -> None:
        """The folder with all that is in it, or the file; nothing where there is neither.

        A symbolic link is removed itself, and what it points to stays.
        """
        path = self.local
        if path is not None:
            with naming_storage_errors(path):
                remove_tree(path)
            return
        with naming_connection_errors(self.location):
            system, remote = filesystem(self.location)
            kind = system.get_file_info(remote).type
            if kind == fs.FileType.Directory:
                system.delete_dir(remote)
            elif kind == fs.FileType.File:
                system.delete_file(remote)


class Hashing(io.RawIOBase):
    """Passes bytes on and hashes them, so that a file need not be read again for its checksum."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._hash, self._place = stream, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self._stream.write(content)
        self._place += len(content)
        return len(content)

    def hexdigest(self) -> str:
        """SHA-256 of the bytes so far."""
        return self._hash.hexdigest()
