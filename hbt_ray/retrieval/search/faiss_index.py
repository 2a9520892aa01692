"""Approximate search: a FAISS index, given by its factory string, proposes documents, and exact scores rank them.

A shard that is too small to train an index on is scanned instead, which is faster for it anyway.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hbt_ray.config import Config
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.search.exact_scores import Floats
from hbt_ray.retrieval.vectors import VectorFile

FLAT = "Flat"
_MIN_ROWS = 10_000
"""Shards with fewer rows are scanned, since a scan takes milliseconds."""
_MIN_ROWS_PER_LIST = 39
"""Minimum number of training rows per centroid in FAISS's clustering."""
_TRAIN_ROWS = 200_000
"""Maximum number of rows to train an index on, drawn from the shard."""
PROPOSALS = 4
"""Number of documents that an index proposes per requested document; exact scores choose among them."""
_BLOCK = 65_536


class IndexConfig(Config):
    """The index of each shard. `Flat` is exact; the others trade recall for time or memory."""

    factory: str = FLAT
    """String for FAISS's index factory, such as `IVF1024,Flat`, `HNSW32` or `IVF1024,PQ48`."""
    parameters: str = ""
    """Search parameters of FAISS, such as `nprobe=16` or `efSearch=128`. Default: those of the index."""
    gpu: bool = False
    """Keep indexes on GPUs. Needs the FAISS build of `hbt-ray[gpu]`."""

    @property
    def exact(self) -> bool:
        """Whether search finds every document that belongs to the first k."""
        return self.factory == FLAT

    def empty(self, width: int) -> Any:
        """An empty, untrained index.

        Raises:
            ConfigError: FAISS has no such index for vectors of this width, or the index no such parameters.
        """
        import faiss

        try:
            index = faiss.index_factory(width, self.factory, faiss.METRIC_INNER_PRODUCT)
            if self.parameters:
                space: Any = faiss.ParameterSpace()
                space.set_index_parameters(index, self.parameters)
        except RuntimeError as error:
            raise ConfigError(
                f"search.index: FAISS cannot make an index {self.factory!r} with parameters {self.parameters!r} for "
                f"vectors of width {width} ({_reason(error)}); see its index factory, such as IVF1024,Flat or HNSW32",
                code="UNKNOWN_FACTORY",
            ) from None
        return index

    def bytes_for(self, num_rows: int, width: int) -> int:
        """Memory of an index over `num_rows` rows in bytes, from the code size that FAISS reports."""
        import faiss

        owner = self.empty(width)  # Keep a reference: the casts below only point into this object.
        index: Any = faiss.downcast_index(owner)
        if isinstance(index, faiss.IndexHNSW):  # Four bytes per link on the lowest level; the upper ones have few.
            links: Any = index.hnsw
            return num_rows * int(index.storage.sa_code_size() + 4 * links.nb_neighbors(0) + 16)
        return num_rows * int(index.sa_code_size() + 8)  # An inverted list keeps an id of eight bytes per code.

    def too_few(self, num_rows: int, width: int) -> bool:
        """Whether a shard of `num_rows` rows is too small for the index and is scanned instead."""
        import faiss

        owner = self.empty(width)  # Keep a reference: `lists` points into this object.
        lists = faiss.try_extract_index_ivf(owner)
        return num_rows < max(_MIN_ROWS, _MIN_ROWS_PER_LIST * lists.nlist if lists else 0)

    def build(self, vectors: Floats | VectorFile, threads: int) -> Any:
        """An index that is trained on a sample of the vectors [rows, width] and filled block by block."""
        import faiss

        faiss.omp_set_num_threads(threads)
        num, width = vectors.shape
        index = self.empty(width)
        if not index.is_trained:
            rows = np.arange(num)
            if num > _TRAIN_ROWS:
                # Sorted, so that a file is read in order; one seed, so that equal shards give equal indexes.
                rows = np.sort(np.random.default_rng(0).choice(num, _TRAIN_ROWS, replace=False))
            index.train(np.ascontiguousarray(vectors[rows]))
        index = on_device(index, self.gpu)
        for start in range(0, num, _BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
        return index


def on_device(index: Any, gpu: bool) -> Any:
    """The index on the first GPU of this process, or unchanged without `gpu`.

    Raises:
        ConfigError: this build of FAISS has no GPU support, or no GPU implementation of this index.
    """
    if not gpu:
        return index
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ConfigError(
            "search.gpu: this faiss is built for CPUs; install hbt-ray[gpu] in place of hbt-ray[cpu]", code="NO_GPU"
        )
    try:
        resources = faiss.StandardGpuResources()
        moved: Any = faiss.index_cpu_to_gpu(resources, 0, index)
    except RuntimeError as error:
        raise ConfigError(
            f"search.gpu: {type(index).__name__} cannot be moved to a GPU ({_reason(error)}); Flat and IVF indexes can",
            code="NO_GPU",
        ) from None
    moved.referenced_objects = [resources]  # The index needs them; FAISS's own wrappers use this attribute too.
    return moved


def _reason(error: RuntimeError) -> str:
    """The message of FAISS without the location in its C++ source."""
    return str(error).rsplit("Error: ", 1)[-1].strip().splitlines()[0]
