"""A shard: documents of one language, held and scored in one process, without Ray.

Both methods use the canonical order (`exact_scores`), so merging or adding up the results of shards gives exactly the
result of one flat index over all their documents.
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
from hbt_ray.retrieval.search.faiss_index import PROPOSALS, IndexConfig, on_device
from hbt_ray.retrieval.vectors import VectorFile

SPARE = 16
"""Candidates requested from FAISS beyond k, since its float32 scores may order near ties wrongly."""
_SCAN_SHARE = 100  # Scan below this number of documents per candidate; measured with 384 dimensions on 2 cores.
_BLOCK = 2048  # documents scored at a time: 16 MB of float64 for 1,000 queries


class VectorShard:
    """Documents as order numbers [m] and vectors [m, dim]; see `exact_scores` for keys and order numbers.

    Args:
        vectors: array in memory, or a file that each call reads block by block.
        index: kind of index for `search`; `count_preceding` always scores every document.
        built: the index, if it exists already. Default: build it on the first search.
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
            self._proposal_index = built  # takes the place of the cached property

    def count_preceding(self, queries: Floats, keys: Integers) -> Integers:
        """Number of documents of this shard that come before each key: [n, dim] and [n, g] → [n, g]."""
        counts = np.zeros(keys.shape, dtype=np.int64)
        for start in range(0, len(self._orders), _BLOCK):
            block = np.sort(self._keys(queries, slice(start, start + _BLOCK)), axis=1)
            counts += block.shape[1] - _count_up_to(block, keys)  # A greater key comes first.
        return counts

    def search(self, queries: Floats, k: int) -> Integers:
        """The keys of the first k documents (fewer if the shard has fewer), best first: [n, dim] → [n, k].

        An index other than `Flat` may miss some of them, or find fewer than k; then `NO_KEY` fills the row.
        """
        k, num_candidates = min(k, len(self._orders)), k + SPARE
        if self._is_approximate:
            return self._search_approximately(queries, k)
        if isinstance(self._vectors, VectorFile):  # FAISS's flat index would hold a copy in memory.
            return self._scan(queries, k)
        if num_candidates * _SCAN_SHARE > len(self._orders):
            return self._scan(queries, k)
        keys, sure = self._candidates(queries, k, num_candidates)
        if not sure.all():  # Scan only for the queries with near ties at the end of the candidates.
            keys[~sure] = self._scan(queries[~sure], k)
        return keys

    def _keys(self, queries: Floats, documents: slice) -> Integers:
        return ranking_keys(score_matrix(queries, self._vectors[documents]), self._orders[documents])

    def _scan(self, queries: Floats, k: int) -> Integers:
        """Search by scoring every document."""
        best = np.empty((len(queries), 0), dtype=np.int64)
        for start in range(0, len(self._orders), _BLOCK):
            best = top_keys(np.hstack([best, self._keys(queries, slice(start, start + _BLOCK))]), k)
        return best

    def _search_approximately(self, queries: Floats, k: int) -> Integers:
        """Search by exact scores among the documents that the index proposes."""
        _, positions = self._proposal_index.search(queries, min(k * PROPOSALS, len(self._orders)))
        query, column = np.nonzero(positions >= 0)  # FAISS pads with -1.
        rows = positions[query, column]
        keys = np.full(positions.shape, NO_KEY, dtype=np.int64)
        keys[query, column] = ranking_keys(pair_scores(queries, self._vectors, query, rows), self._orders[rows])
        return top_keys(keys, k)

    def _candidates(self, queries: Floats, k: int, num_candidates: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """Search by FAISS's float32 scores: keys [n, k], and whether a query's keys are certainly complete, [n].

        A float32 score, added in any order, is within `reach` of the canonical one: `dim` roundings of 2^-24 |q| |d|,
        one more for the canonical score itself, and what is lost below 2^-126. The score of FAISS's last candidate
        bounds those of all documents that it left out. If that bound plus the reach is below the k-th canonical score,
        none of them belongs to the first k.
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
        # Built on the first search: `count_preceding` needs no index, and the index copies the vectors.
        import faiss

        faiss.omp_set_num_threads(self._threads)
        index = on_device(faiss.IndexFlatIP(self._vectors.shape[1]), self._index.gpu)
        index.add(self._vectors)
        return index

    @cached_property
    def _is_approximate(self) -> bool:
        return not self._index.exact and not self._index.too_few(*self._vectors.shape)

    @cached_property
    def _proposal_index(self) -> Any:
        return self._index.build(self._vectors, self._threads)


def top_keys(keys: Integers, k: int) -> Integers:
    """The k greatest keys of each row (all, if there are fewer), greatest first: [n, m] → [n, k]."""
    # Partition first, so that only k keys are sorted.
    if k < keys.shape[1]:
        keys = np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k :]
    return np.ascontiguousarray(np.sort(keys, axis=1)[:, ::-1])


def _count_up_to(rows: Integers, keys: Integers) -> Integers:
    """Number of entries of each row up to each key, by binary search: sorted [n, m] and [n, g] → [n, g]."""
    # `np.searchsorted` takes one row only; this searches all rows at once, in log2(m) steps.
    low = np.zeros(keys.shape, dtype=np.int64)
    high = np.full(keys.shape, rows.shape[1], dtype=np.int64)
    for _ in range(rows.shape[1].bit_length()):
        middle = np.minimum((low + high) // 2, rows.shape[1] - 1)
        below = (np.take_along_axis(rows, middle, axis=1) <= keys) & (low < high)
        low = np.where(below, middle + 1, low)
        high = np.where(below, high, middle)
    return low
