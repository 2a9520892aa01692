"""Approximate search: a FAISS index, by its factory string, that proposes documents for exact scores to order.

Shards that are too small to train an index on are scanned, which is faster there anyway.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hbt_ray.config import Config
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.search.exact_scores import Floats
from hbt_ray.retrieval.vector_file import VectorFile

FLAT = "Flat"
_FEW = 10_000
"""Rows that are scanned in milliseconds."""
_ROWS_A_LIST = 39
"""FAISS asks for so many to train each centroid."""
_BLOCK = 65_536


class IndexConfig(Config):
    """Which index a shard has. `Flat` is exact; the others trade recall for time or memory."""

    factory: str = FLAT
    """A string of FAISS's index factory, such as `IVF1024,Flat`, `HNSW32` or `IVF1024,PQ48`."""
    parameters: str = ""
    """Of the search, such as `nprobe=16` or `efSearch=128`."""
    train_rows: int = 200_000
    """Rows that an index is trained on at most, drawn from the shard."""
    proposals: int = 4
    """Documents that the index proposes for each that is asked for; exact scores choose among them."""
    gpu: bool = False
    """Keep indexes on GPUs; needs the faiss of hbt-ray[gpu]."""

    @property
    def exact(self) -> bool:
        return self.factory == FLAT

    def empty(self, width: int) -> Any:
        """The index, untrained.

        Raises:
            ConfigError: FAISS does not know such a factory string for vectors of this width, or such parameters.
        """
        import faiss

        try:
            index = faiss.index_factory(width, self.factory, faiss.METRIC_INNER_PRODUCT)
            if self.parameters:
                space: Any = faiss.ParameterSpace()
                space.set_index_parameters(index, self.parameters)
        except RuntimeError as error:
            raise ConfigError(
                f"search.index: FAISS makes no index {self.factory!r} with {self.parameters or 'no parameters'!r} for "
                f"vectors of width {width} ({_reason(error)}); see its index factory, such as IVF1024,Flat or HNSW32"
            ) from None
        return index

    def bytes_for(self, num_rows: int, width: int) -> int:
        """Memory of an index over so many rows, by FAISS's own account of its codes."""
        import faiss

        owner = self.empty(width)  # What follows points into it.
        index: Any = faiss.downcast_index(owner)
        if isinstance(index, faiss.IndexHNSW):  # Links of four bytes on the lowest level, few above it.
            links: Any = index.hnsw
            return num_rows * int(index.storage.sa_code_size() + 4 * links.nb_neighbors(0) + 16)
        return num_rows * int(index.sa_code_size() + 8)

    def too_few(self, num_rows: int, width: int) -> bool:
        """Whether a shard of so many rows is scanned instead."""
        import faiss

        owner = self.empty(width)  # What follows points into it.
        lists = faiss.try_extract_index_ivf(owner)
        return num_rows < max(_FEW, _ROWS_A_LIST * lists.nlist if lists else 0)

    def build(self, vectors: Floats | VectorFile, threads: int) -> Any:
        """Trained on a sample and filled, block by block."""
        import faiss

        faiss.omp_set_num_threads(threads)
        num, width = vectors.shape
        index = self.empty(width)
        if not index.is_trained:
            rows = np.arange(num)
            if num > self.train_rows:
                rows = np.sort(np.random.default_rng(0).choice(num, self.train_rows, replace=False))
            index.train(np.ascontiguousarray(vectors[rows]))
        index = on_device(index, self.gpu)
        for start in range(0, num, _BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
        return index


def on_device(index: Any, gpu: bool) -> Any:
    """On the first GPU that this process sees, or where it is.

    Raises:
        ConfigError: this build of FAISS knows no GPU, or this kind of index cannot live on one.
    """
    if not gpu:
        return index
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ConfigError("search.gpu: this faiss is built for CPUs; install hbt-ray[gpu] in place of hbt-ray[cpu]")
    try:
        resources = faiss.StandardGpuResources()
        moved: Any = faiss.index_cpu_to_gpu(resources, 0, index)
    except RuntimeError as error:
        raise ConfigError(
            f"search.gpu: {type(index).__name__} cannot be moved to a GPU ({_reason(error)}); Flat and IVF indexes can"
        ) from None
    moved.referenced_objects = [resources]  # FAISS's own way to keep alive what an index lives on.
    return moved


def _reason(error: RuntimeError) -> str:
    """FAISS names the place in its C++ before it."""
    return str(error).rsplit("Error: ", 1)[-1].strip().splitlines()[0]
