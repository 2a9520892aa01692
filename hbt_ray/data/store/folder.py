"""The folder: a place for files, on this machine or in an object store, where a file appears whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from hbt_ray.data.store.location import child, filesystem, inside, reachable


@dataclass(frozen=True, slots=True)
class Folder:
    """A location and what can be done there; names may hold slashes."""

    location: str

    def __truediv__(self, name: str) -> Folder:
        return Folder(child(self.location, name))

    def __str__(self) -> str:
        return self.location

    def exists(self, name: str) -> bool:
        with reachable(self.location):
            system, path = inside(self.location, name)
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def names(self) -> list[str]:
        """Of the files and folders directly here; none where there is no such folder."""
        with reachable(self.location):
            system, path = filesystem(self.location)
            infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def read(self, name: str) -> bytes:
        system, path = inside(self.location, name)
        with system.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream for bytes; the file is there once the block has ended, and what stood there before until then."""
        system, path = inside(self.location, name)
        if not isinstance(system, fs.LocalFileSystem):
            with system.open_output_stream(path, compression=None) as stream:  # An upload counts once it is closed.
                yield stream
            return
        system.create_dir(os.path.dirname(path))
        scratch = f"{path}.{uuid.uuid4().hex}.part"
        try:
            with system.open_output_stream(scratch, compression=None) as stream:
                yield stream
            os.replace(scratch, path)
        except BaseException:
            if os.path.exists(scratch):
                os.remove(scratch)
            raise

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as stream:
            stream.write(content)

    @contextmanager
    def writing_arrow(
        self, name: str, schema: pa.Schema, compression: str | None = "lz4"
    ) -> Iterator[pa.RecordBatchFileWriter]:
        """An Arrow IPC file, for record batches and tables."""
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with self.writing(name) as stream, pa.ipc.new_file(stream, schema, options=options) as writer:
            yield writer

    def arrow(self, name: str) -> pa.RecordBatchFileReader:
        """An Arrow IPC file, memory-mapped where it can be."""
        system, path = inside(self.location, name)
        if isinstance(system, fs.LocalFileSystem):
            return pa.ipc.open_file(pa.memory_map(path))
        return pa.ipc.open_file(system.open_input_file(path))

    def remove(self) -> None:
        """The folder with all that is in it, or the file; nothing where there is neither."""
        system, path = filesystem(self.location)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.Directory:
            system.delete_dir(path)
        elif kind == fs.FileType.File:
            system.delete_file(path)


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
