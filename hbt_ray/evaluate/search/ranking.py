"""Ranking: what the judge asks of a system, be it vectors in shards (`search`) or words in postings (`lexical`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from hbt_ray.evaluate.search.scores import Floats, Integers


@dataclass(frozen=True, eq=False)
class Hits:
    """The first documents of each query in canonical order, best first."""

    documents: Integers
    """[n, k] rows of the corpus; -1 where fewer were found."""
    scores: Floats
    """[n, k]; -inf there."""


@dataclass(frozen=True, eq=False)
class Places:
    """Exact ranks of given documents, counted from 1; 0 at the padding."""

    own: Integers
    """[n, g] among the documents of the same language."""
    pool: Integers
    """[n, g] among all documents."""


class Ranking(Protocol):
    """A corpus that is ranked for queries. What a query is, a row of `queries`, only the system knows."""

    ids: list[str]

    def search(self, queries: npt.NDArray[Any], k: int) -> Hits:
        """The first k documents in the pool of all languages."""

    def places(self, queries: npt.NDArray[Any], documents: Integers) -> Places:
        """Where these documents stand: rows of the corpus [n, g], -1 as padding."""
