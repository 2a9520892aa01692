"""Vectors in `.npy` files: created at full size, and read block by block."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class VectorFile:
    """Vectors [rows, width], float32; index it with a slice or an array of rows, and only these are read.

    A memory map would need less code, but the pages that it has read count as memory of the process until the kernel
    takes them back.
    """

    def __init__(self, path: Path) -> None:
        """Raises: ValueError if the file holds another type."""
        mapped = np.load(path, mmap_mode="r")
        self._path, self.shape, self._offset = path, (int(mapped.shape[0]), int(mapped.shape[1])), int(mapped.offset)
        if mapped.dtype != np.float32:
            raise ValueError(f"{path} holds {mapped.dtype}, not float32")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Floats:
        if not isinstance(rows, slice):
            return np.array(np.load(self._path, mmap_mode="r")[rows])
        start, stop, _ = rows.indices(len(self))
        num, width = max(0, stop - start), self.shape[1]
        block: Floats = np.fromfile(self._path, np.float32, num * width, offset=self._offset + 4 * start * width)
        return block.reshape(num, width)


def as_vector_file(vectors: Floats | VectorFile) -> Floats | VectorFile:
    """A `VectorFile` for a memory map of a whole file; any other array as it is."""
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
