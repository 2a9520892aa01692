"""Ranking: what the judge asks of a system, be it vectors in shards (`search`) or words in postings (`lexical`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hbt_ray.retrieval.search.exact_scores import Floats, Integers


@dataclass(frozen=True, eq=False)
class Hits:
    """The first documents of each query in canonical order, best first."""

    documents: Integers
    """[n, k] rows of the corpus; -1 where fewer were found."""
    scores: Floats
    """[n, k]; -inf there."""


@dataclass(frozen=True, eq=False)
class DocumentRanks:
    """Exact ranks of given documents, counted from 1; 0 at the padding."""

    own: Integers
    """[n, g] among the documents of the same language."""
    pool: Integers
    """[n, g] among all documents."""


class RankingIndex(Protocol):
    """A corpus that is ranked for queries. What a query is, a row of `queries`, only the system knows."""

    ids: list[str]

    def search(self, queries: npt.NDArray[Any], k: int) -> Hits:
        """The first k documents in the pool of all languages."""

    def places(self, queries: npt.NDArray[Any], documents: Integers) -> DocumentRanks:
        """Where these documents stand: rows of the corpus [n, g], -1 as padding."""


def search_excluding(index: RankingIndex, queries: npt.NDArray[Any], k: int, left_out: Integers) -> Hits:
    """The first k documents of each query, with one document left out of its ranking.

    Args:
        left_out: [n] rows of the corpus, -1 for a query that loses none.
    """
    if (left_out < 0).all():
        return index.search(queries, k)
    hits = index.search(queries, k + 1)
    gone = (hits.documents == left_out[:, None]) & (left_out[:, None] >= 0)
    # Stable: what stays keeps its order.
    order = np.argsort(gone, axis=1, kind="stable")
    documents = np.take_along_axis(np.where(gone, -1, hits.documents), order, axis=1)
    scores = np.take_along_axis(np.where(gone, np.float32(-np.inf), hits.scores), order, axis=1)
    return Hits(documents[:, :k], scores[:, :k])


def ranks_excluding(
    index: RankingIndex,
    queries: npt.NDArray[Any],
    documents: Integers,
    left_out: Integers,
    languages: npt.NDArray[np.str_],
) -> DocumentRanks:
    """Exact ranks of documents where one document is left out of each query's ranking.

    Args:
        documents: [n, g] rows of the corpus, -1 as padding; not among what is left out.
        left_out: [n], see `search_excluding`.
        languages: [corpus] of all documents.
    """
    if (left_out < 0).all():
        return index.places(queries, documents)
    places = index.places(queries, np.hstack([documents, left_out[:, None]]))
    gone = left_out[:, None] >= 0
    own, pool = places.own[:, :-1], places.pool[:, :-1]
    same = languages[documents] == languages[left_out][:, None]
    return DocumentRanks(
        own - (gone & same & (places.own[:, -1:] < own)),
        pool - (gone & (places.pool[:, -1:] < pool)),
    )
