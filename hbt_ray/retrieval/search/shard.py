"""A shard: some documents of one language, held in one process. It knows nothing of Ray.

Both questions that it answers are answered in canonical order (`scores`), so that adding up or merging the answers of
any shards gives, to the last rank, what one flat index over all their documents would give.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hbt_ray.retrieval.search.exact_scores import (
    NO_KEY,
    Floats,
    Integers,
    key_scores,
    norms,
    pair_scores,
    ranking_keys,
    score_matrix,
)
from hbt_ray.retrieval.search.faiss_index import IndexConfig, on_device
from hbt_ray.retrieval.vector_file import VectorFile

SPARE = 16
"""Candidates that FAISS is asked for beyond k, for what float32 may have put in the wrong order."""
_SCAN_SHARE = 100  # FAISS pays off where it spares 100 documents for each candidate: measured, 384 dimensions, 2 cores
_BLOCK = 2048  # documents scored at a time: 16 MB of float64 for 1,000 queries


class VectorShard:
    """Documents as order numbers [m] and vectors [m, dim]; see `scores` for keys and order numbers.

    Args:
        vectors: in memory, or in a file that is read block by block for every call.
        index: what `search` asks; `preceding` always looks at every document.
        built: that index, if it is there already.
    """

    def __init__(
        self,
        orders: Integers,
        vectors: Floats | VectorFile,
        threads: int = 1,
        index: IndexConfig | None = None,
        built: Any = None,
    ) -> None:
        self._orders, self._vectors, self._threads = orders, vectors, threads
        self._index = index or IndexConfig()
        if built is not None:
            self._proposing = built

    def preceding(self, queries: Floats, keys: Integers) -> Integers:
        """How many documents of this shard come before each key: [n, dim] and [n, g] → [n, g]."""
        counts = np.zeros(keys.shape, dtype=np.int64)
        for start in range(0, len(self._orders), _BLOCK):
            block = np.sort(self._keys(queries, slice(start, start + _BLOCK)), axis=1)
            counts += block.shape[1] - _not_above(block, keys)
        return counts

    def search(self, queries: Floats, k: int) -> Integers:
        """The keys of the first k documents (fewer where the shard has fewer), best first: [n, dim] → [n, k].

        An index other than `Flat` may miss some of them, and find fewer than k: the rest is `NO_KEY`.
        """
        k, num_candidates = min(k, len(self._orders)), k + SPARE
        if self._proposes:
            return self._proposed(queries, k)
        if isinstance(self._vectors, VectorFile):
            return self._scan(queries, k)
        if num_candidates * _SCAN_SHARE > len(self._orders):
            return self._scan(queries, k)
        keys, sure = self._candidates(queries, k, num_candidates)
        if not sure.all():
            keys[~sure] = self._scan(queries[~sure], k)
        return keys

    def _keys(self, queries: Floats, documents: slice) -> Integers:
        return ranking_keys(score_matrix(queries, self._vectors[documents]), self._orders[documents])

    def _scan(self, queries: Floats, k: int) -> Integers:
        """`search` by scoring every document."""
        best = np.empty((len(queries), 0), dtype=np.int64)
        for start in range(0, len(self._orders), _BLOCK):
            best = top_keys(np.hstack([best, self._keys(queries, slice(start, start + _BLOCK))]), k)
        return best

    def _proposed(self, queries: Floats, k: int) -> Integers:
        """`search` by exact scores among what the index proposes."""
        _, positions = self._proposing.search(queries, min(k * self._index.proposals, len(self._orders)))
        query, column = np.nonzero(positions >= 0)
        found = positions[query, column]
        keys = np.full(positions.shape, NO_KEY, dtype=np.int64)
        keys[query, column] = ranking_keys(pair_scores(queries, self._vectors, query, found), self._orders[found])
        return top_keys(keys, k)

    def _candidates(self, queries: Floats, k: int, num_candidates: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """`search` by FAISS, and for which queries no document can have been missed.

        A float32 score, added in whatever order, is within `reach` of the canonical one: `dim` roundings of
        2^-24 |q| |d|, one more for the canonical score itself, and whatever falls below 2^-126. FAISS's last
        candidate bounds what it left out: nothing of that belongs in where this bound, plus the reach, is below the
        k-th canonical score.
        """
        dim = queries.shape[1]
        assert isinstance(self._vectors, np.ndarray)
        fast, positions = self._faiss.search(queries, num_candidates)
        query = np.repeat(np.arange(len(queries)), num_candidates)
        scores = pair_scores(queries, self._vectors, query, positions.ravel())
        keys = top_keys(ranking_keys(scores.reshape(fast.shape), self._orders[positions]), k)
        reach = 1.01 * (dim + 4) * 2.0**-24 * norms(queries) * self._max_norm + 2 * dim * 2.0**-126
        return keys, fast[:, -1] + reach < key_scores(keys[:, -1])

    @cached_property
    def _max_norm(self) -> float:
        assert isinstance(self._vectors, np.ndarray)
        return float(norms(self._vectors).max(initial=0.0))

    @cached_property
    def _faiss(self) -> Any:
        # Made on the first search: `preceding` needs no index, and the index copies the vectors.
        import faiss

        faiss.omp_set_num_threads(self._threads)
        index = on_device(faiss.IndexFlatIP(self._vectors.shape[1]), self._index.gpu)
        index.add(self._vectors)
        return index

    @cached_property
    def _proposes(self) -> bool:
        return not self._index.exact and not self._index.too_few(*self._vectors.shape)

    @cached_property
    def _proposing(self) -> Any:
        return self._index.build(self._vectors, self._threads)


def top_keys(keys: Integers, k: int) -> Integers:
    """The k greatest keys of each row (all, where there are fewer), greatest first: [n, m] → [n, k]."""
    if k < keys.shape[1]:
        keys = np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k :]
    return np.ascontiguousarray(np.sort(keys, axis=1)[:, ::-1])


def _not_above(rows: Integers, keys: Integers) -> Integers:
    """How many entries of each row are not above each key, by halving: sorted [n, m] and [n, g] → [n, g]."""
    low = np.zeros(keys.shape, dtype=np.int64)
    high = np.full(keys.shape, rows.shape[1], dtype=np.int64)
    for _ in range(rows.shape[1].bit_length()):
        middle = np.minimum((low + high) // 2, rows.shape[1] - 1)
        below = (np.take_along_axis(rows, middle, axis=1) <= keys) & (low < high)
        low = np.where(below, middle + 1, low)
        high = np.where(below, high, middle)
    return low
