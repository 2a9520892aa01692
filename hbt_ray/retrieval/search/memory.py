"""Memory: where the vectors of a corpus are kept while it is searched, decided before anything is loaded."""

from __future__ import annotations

from enum import Enum

from hbt_ray.errors import ResourceError
from hbt_ray.retrieval.search.faiss_index import IndexConfig

_COPIES = 2
"""Of a corpus in memory: what the processes share, and what FAISS's flat index copies."""


class Keeping(Enum):
    """Where vectors are."""

    HELD = "in memory"
    STREAMED = "on disk, read anew for every chunk of queries"


def keeping(num_rows: int, width: int, index: IndexConfig, allowance: float) -> Keeping:
    """What an allowance, in bytes over all processes, has room for.

    Exact search falls back to reading from disk. An index other than `Flat` has to be in memory, and its vectors, which
    only put its proposals in order, need not be.

    Raises:
        ResourceError: the index does not fit; with figures.
    """
    vectors = 4 * num_rows * width
    if index.exact:
        return Keeping.HELD if _COPIES * vectors <= allowance else Keeping.STREAMED
    needed = index.bytes_for(num_rows, width)
    if needed > allowance:
        raise ResourceError(
            f"an index {index.factory} over {num_rows:,} vectors of width {width} takes {gib(needed)}, and "
            f"{gib(allowance)} are allowed for it; raise search.memory_gib, add nodes, take a smaller code such as "
            "IVF1024,PQ48, or search exactly (Flat), which reads from disk what does not fit"
        )
    return Keeping.HELD if needed + vectors <= allowance else Keeping.STREAMED


def gib(num_bytes: float) -> str:
    """`1.5 GiB`, `0.003 GiB`."""
    return f"{num_bytes / 2**30:.3g} GiB"
