"""Vectors on disk: files that are read block by block, and a cache of the vectors of texts.

With the cache, one model encodes no text twice:

FOLDER/<identity of the model>/model.json       the fingerprint of its vectors
FOLDER/<identity of the model>/<texts>/         one set of distinct texts: vectors.npy, [texts, width], float32, and
                                                checksums.json

Vectors are memory-mapped, so a corpus need not fit into memory. A file is compared with its checksum when it is opened;
texts of a damaged file are encoded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import DamagedFile
from hbt_ray.storage import (
    atomic_folder,
    checked_file,
    read_checked_json,
    write_checked_json,
    write_checksums,
)

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Texts: TypeAlias = "Sequence[str] | pa.ChunkedArray"
QUESTIONS, PASSAGES = SIDES = (0, 1)
"""Sides of a task. Their prompts may differ, so one text has a vector for each side."""
_MODEL, _VECTORS = "model.json", "vectors.npy"


class VectorFile:
    """Vectors [rows, width], float32, on disk. Indexing by a slice or an array of rows reads only these rows.

    Each read maps the file anew: the pages that a lasting memory map has read count as memory of the process until the
    kernel takes them back.
    """

    def __init__(self, path: Path) -> None:
        """Raises: ValueError if the file does not hold float32."""
        mapped = np.load(path, mmap_mode="r")
        self._path, self.shape = path, (int(mapped.shape[0]), int(mapped.shape[1]))
        if mapped.dtype != np.float32:
            raise ValueError(f"{path} holds {mapped.dtype}, not float32")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Vectors:
        # A copy, so that the map can close.
        return np.array(np.load(self._path, mmap_mode="r")[rows])


def as_vector_file(vectors: Vectors | VectorFile) -> Vectors | VectorFile:
    """A `VectorFile` for a memory map of a whole file; any other array unchanged."""
    if isinstance(vectors, np.memmap) and vectors.filename and vectors.base is not None:
        file = VectorFile(Path(vectors.filename))
        return file if file.shape == vectors.shape else vectors
    return vectors


def create_vector_file(path: Path, shape: tuple[int, int]) -> np.memmap[Any, np.dtype[np.float32]]:
    """A memory-mapped float32 array in a new `.npy` file.

    Its disk space is allocated at once: writing to mapped memory on a full disk would kill the process.

    Raises:
        OSError: the disk is full.
    """
    array: np.memmap[Any, np.dtype[np.float32]] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


@dataclass(frozen=True, eq=False)
class TextSet:
    """The distinct texts of one side."""

    side: int
    """`QUESTIONS` or `PASSAGES`."""
    texts: pa.LargeStringArray
    """The distinct texts in the order in which they first occur."""
    rows: npt.NDArray[np.int64]
    """[given texts]: the row of each given text in `texts`."""

    @classmethod
    def of(cls, side: int, texts: Texts) -> TextSet:
        """The distinct texts among all texts of a side."""
        column = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([pa.array(texts, pa.large_string())])
        column = column.cast(pa.large_string())
        distinct = column.unique()
        return cls(side, distinct, pc.index_in(column, value_set=distinct).to_numpy().astype(np.int64))

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def checksum(self) -> str:
        """Checksum of side and texts, in order."""
        digest = hashlib.sha256(bytes([self.side]))
        # Lengths first: without them `ab`, `c` and `a`, `bc` would give one checksum.
        digest.update(pc.binary_length(self.texts).to_numpy().tobytes())
        # In parts, so that not all texts are Python strings at once.
        for start in range(0, len(self.texts), 1 << 16):
            digest.update("".join(self.texts.slice(start, 1 << 16).to_pylist()).encode())
        return digest.hexdigest()[:16]

    def expand(self, vectors: Vectors) -> Vectors:
        """Vectors of the given texts from those of the distinct ones; the same array if no text occurs twice."""
        if len(self.rows) == len(vectors) and (self.rows == np.arange(len(vectors))).all():
            return vectors
        return vectors[self.rows]


class VectorCache:
    """Vectors of one model on disk. The folder need not exist yet."""

    def __init__(self, root: Path, identity: str) -> None:
        self._root = root / identity

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the model; None if nothing is cached yet or its file is damaged."""
        try:
            return str(read_checked_json(self._root / _MODEL)["fingerprint"])
        except FileNotFoundError:
            return None
        except (DamagedFile, KeyError) as error:
            logger.warning("%s; the texts are encoded again", error)
            return None

    def find(self, texts: TextSet) -> Vectors | None:
        """The texts' vectors, memory-mapped; None if they are missing or damaged."""
        if self.fingerprint is None:
            return None
        try:
            vectors: Vectors = np.load(checked_file(self._folder(texts), _VECTORS), mmap_mode="r")
        except FileNotFoundError:
            return None
        except (DamagedFile, OSError, ValueError) as error:
            logger.warning("%s; the texts are encoded again", error)
            return None
        return vectors if len(vectors) == len(texts) else None

    @contextmanager
    def writing(self, texts: TextSet, width: int) -> Iterator[Vectors]:
        """An array [texts, width] to fill; it is cached if the `with` block ends without an error.

        Raises:
            StorageError: the disk is full.
        """
        with atomic_folder(self._folder(texts)) as scratch:
            array = create_vector_file(scratch / _VECTORS, (len(texts), width))
            yield array
            array.flush()
            write_checksums(scratch)

    def write_fingerprint(self, fingerprint: str) -> None:
        """Write the model's fingerprint. Call it after vectors are written: `find` returns None until it exists."""
        write_checked_json(self._root / _MODEL, {"fingerprint": fingerprint})

    def _folder(self, texts: TextSet) -> Path:
        return self._root / texts.checksum
