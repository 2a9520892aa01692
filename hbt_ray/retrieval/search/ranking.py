"""The interface of all retrieval systems for evaluation: vectors in shards (`sharded_index`) and BM25 (`bm25`)."""

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
    """[queries, k] rows of the corpus; -1 as padding if fewer were found."""
    scores: Floats
    """[queries, k]; -inf at the padding."""


@dataclass(frozen=True, eq=False)
class DocumentRanks:
    """Exact ranks of given documents, counted from 1; 0 at the padding."""

    in_language: Integers
    """[queries, g] ranks among the documents of the same language."""
    pool: Integers
    """[queries, g] ranks among all documents."""


class RankingIndex(Protocol):
    """An index of a corpus that ranks documents. Each system defines the content of a row of `queries`."""

    ids: list[str]
    """Document ids, in the order of the corpus."""

    def search(self, queries: npt.NDArray[Any], k: int) -> Hits:
        """The first k documents in the pool of all languages."""

    def document_ranks(self, queries: npt.NDArray[Any], documents: Integers) -> DocumentRanks:
        """Ranks of documents, given as rows of the corpus [queries, g], -1 as padding."""


def search_excluding(index: RankingIndex, queries: npt.NDArray[Any], k: int, excluded: Integers) -> Hits:
    """The first k documents of each query, without one excluded document.

    Args:
        excluded: [queries] rows of the corpus, -1 for a query that excludes none.
    """
    if (excluded < 0).all():
        return index.search(queries, k)
    hits = index.search(queries, k + 1)  # one more, since one may be excluded
    drop = (hits.documents == excluded[:, None]) & (excluded[:, None] >= 0)
    # A stable sort moves the excluded document to the end and keeps the order of the others.
    order = np.argsort(drop, axis=1, kind="stable")
    documents = np.take_along_axis(np.where(drop, -1, hits.documents), order, axis=1)
    scores = np.take_along_axis(np.where(drop, np.float32(-np.inf), hits.scores), order, axis=1)
    return Hits(documents[:, :k], scores[:, :k])


def ranks_excluding(
    index: RankingIndex,
    queries: npt.NDArray[Any],
    documents: Integers,
    excluded: Integers,
    languages: npt.NDArray[np.str_],
) -> DocumentRanks:
    """Exact ranks of documents in rankings without one excluded document for each query.

    Args:
        documents: [queries, g] rows of the corpus, -1 as padding; the excluded document is not among them.
        excluded: [queries] rows, see `search_excluding`.
        languages: [corpus] languages of all documents.
    """
    if (excluded < 0).all():
        return index.document_ranks(queries, documents)
    # Rank the excluded document as well, in the last column: only documents behind it change their rank.
    ranks = index.document_ranks(queries, np.hstack([documents, excluded[:, None]]))
    drop = excluded[:, None] >= 0
    in_language, pool = ranks.in_language[:, :-1], ranks.pool[:, :-1]
    same = languages[documents] == languages[excluded][:, None]
    # Those documents move up by one; padding stays 0, since its rank is not greater.
    return DocumentRanks(
        in_language - (drop & same & (ranks.in_language[:, -1:] < in_language)),
        pool - (drop & (ranks.pool[:, -1:] < pool)),
    )
