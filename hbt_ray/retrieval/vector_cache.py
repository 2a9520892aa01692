"""Vectors that are kept: no text goes twice through one model.

FOLDER/<identity of the model>/model.json       its fingerprint
FOLDER/<identity of the model>/<texts>/         vectors of one set of distinct texts: vectors.npy, [texts, width],
                                                float32, and checksums.json

Vectors are memory-mapped, so a corpus need not fit into memory. They are compared with their checksum when they are
opened; damaged ones are made again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import DamagedFile
from hbt_ray.retrieval.vector_file import create_vector_file
from hbt_ray.storage import (
    atomic_folder,
    checked_file,
    read_checked_json,
    with_checksum,
    write_checksums,
    write_json,
)

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Texts: TypeAlias = "Sequence[str] | pa.ChunkedArray"
_MODEL, _VECTORS = "model.json", "vectors.npy"


@dataclass(frozen=True, eq=False)
class TextSet:
    """The distinct texts of one side, and where each of the given ones is among them."""

    side: int
    """0 for questions, 1 for passages: prompts may differ."""
    texts: pa.LargeStringArray
    """In the order in which they first occur."""
    places: npt.NDArray[np.int64]
    """[given texts] → row of `texts`."""

    @classmethod
    def of(cls, side: int, texts: Texts) -> TextSet:
        given = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([pa.array(texts, pa.large_string())])
        given = given.cast(pa.large_string())
        distinct = given.unique()
        places = pc.index_in(given, value_set=distinct).to_numpy().astype(np.int64)
        return cls(side, distinct, places)

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def checksum(self) -> str:
        """Of side and texts, in order."""
        digest = hashlib.sha256(bytes([self.side]))
        digest.update(pc.binary_length(self.texts).to_numpy().tobytes())
        for start in range(0, len(self.texts), 1 << 16):
            digest.update("".join(self.texts.slice(start, 1 << 16).to_pylist()).encode())
        return digest.hexdigest()[:16]

    def given(self, vectors: Vectors) -> Vectors:
        """Vectors of the given texts from those of the distinct ones; not copied where no text occurs twice."""
        if len(self.places) == len(vectors) and (self.places == np.arange(len(vectors))).all():
            return vectors
        return vectors[self.places]


class VectorCache:
    """What is kept of one model below a folder, which need not be there yet."""

    def __init__(self, root: Path, identity: str) -> None:
        self._root = root / identity

    @property
    def fingerprint(self) -> str | None:
        """Of the model; None before anything was kept, or if that file is damaged."""
        try:
            return str(read_checked_json(self._root / _MODEL)["fingerprint"])
        except FileNotFoundError:
            return None
        except (DamagedFile, KeyError) as error:
            logger.warning("%s; the texts are encoded again", error)
            return None

    def find(self, texts: TextSet) -> Vectors | None:
        """Their vectors, memory-mapped; None where they are not kept, or damaged."""
        if self.fingerprint is None:
            return None
        try:
            vectors: Vectors = np.load(checked_file(self._path(texts), _VECTORS), mmap_mode="r")
        except FileNotFoundError:
            return None
        except (DamagedFile, OSError, ValueError) as error:
            logger.warning("%s; the texts are encoded again", error)
            return None
        return vectors if len(vectors) == len(texts) else None

    @contextmanager
    def writing(self, texts: TextSet, width: int) -> Iterator[Vectors]:
        """An array to write to, kept if the block ends well.

        Raises:
            StorageError: the disk is full.
        """
        with atomic_folder(self._path(texts)) as scratch:
            array = create_vector_file(scratch / _VECTORS, (len(texts), width))
            yield array
            array.flush()
            write_checksums(scratch)

    def name(self, fingerprint: str) -> None:
        """Say what model it is, once its first vectors are there."""
        write_json(self._root / _MODEL, with_checksum({"fingerprint": fingerprint}))

    def _path(self, texts: TextSet) -> Path:
        return self._root / texts.checksum
