"""Lexical: BM25, the baseline that has learned nothing. What it misses and an encoder finds, dense training bought.

Scores are those of `bm25s` in Lucene's variant, with k1 and b of the literature's baselines (Anserini; MIRACL, BEIR).
Each language's documents have statistics of their own, so that monolingual figures are those of the usual BM25, and
so has the pool. Documents that share no word with a query all score 0, and stand at the end in the order of ids.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.bm25_words import NEEDED, words
from hbt_ray.retrieval.search.exact_scores import Floats, Integers, key_orders, key_scores, ranking_keys
from hbt_ray.retrieval.search.ranking import Hits, RankingRows
from hbt_ray.retrieval.search.shard import top
from hbt_ray.retrieval.tasks import Task

K1, B = 0.9, 0.4
FINGERPRINT = f"bm25-lucene-{K1}-{B}"
Words = npt.NDArray[np.object_]
"""[n] lists of words."""


class Bm25Index:
    """A corpus in postings, in this process."""

    def __init__(self, ids: Sequence[str], languages: Sequence[str], texts: Sequence[str]) -> None:
        """One id, language and text a document."""
        self.ids = list(ids)
        self._order = np.empty(len(ids), np.int64)
        self._order[sorted(range(len(ids)), key=self.ids.__getitem__)] = np.arange(len(ids))
        self._row_of_order = np.argsort(self._order)
        self._language = np.asarray(languages)
        read = read_words(texts, languages)
        self._pool = _Postings(np.arange(len(read)), read)
        names: list[str] = np.unique(self._language).tolist()
        parts = {name: np.flatnonzero(self._language == name) for name in names}
        self._own = {
            name: _Postings(rows, read[rows]) if len(names) > 1 else self._pool for name, rows in parts.items()
        }

    @classmethod
    def of_task(cls, task: Task) -> Self:
        return cls(*(task.documents[name].to_pylist() for name in ("doc_id", "language", "text")))

    def search(self, queries: Words, k: int) -> Hits:
        """The first k documents that share a word with the query, in the pool: queries are rows of `read_words`."""
        k = min(k, len(self.ids))
        documents = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for number, query in enumerate(queries):
            keys = top(self._keys(self._pool, query)[None], k)[0]
            found = key_scores(keys) > 0
            documents[number, : found.sum()] = self._row_of_order[key_orders(keys[found])]
            scores[number, : found.sum()] = key_scores(keys[found])
        return Hits(documents, scores)

    def places(self, queries: Words, documents: Integers) -> RankingRows:
        """Exact ranks of rows of the corpus [n, g], -1 as padding."""
        own, pool = np.zeros(documents.shape, np.int64), np.zeros(documents.shape, np.int64)
        for number, query in enumerate(queries):
            given = documents[number] >= 0
            rows = documents[number, given]
            pool[number, given] = self._ranks(self._pool, query, rows)
            ranks = np.empty(len(rows), np.int64)
            for name in np.unique(self._language[rows]).tolist():
                of = self._language[rows] == name
                ranks[of] = self._ranks(self._own[name], query, rows[of])
            own[number, given] = ranks
        return RankingRows(own, pool)

    def _ranks(self, postings: _Postings, query: list[str], rows: Integers) -> Integers:
        keys = self._keys(postings, query)
        wanted = keys[np.searchsorted(postings.rows, rows)]
        return 1 + np.asarray((keys > wanted[:, None]).sum(axis=1), np.int64)

    def _keys(self, postings: _Postings, query: list[str]) -> Integers:
        return ranking_keys(postings.scores(query), self._order[postings.rows])


class _Postings:
    """Some documents, and BM25 over their words."""

    def __init__(self, rows: Integers, read: Words) -> None:
        """Rows of the corpus, ascending, and what is read there."""
        self.rows = rows
        self._bm25 = _bm25()
        self._any = any(map(len, read))
        if self._any:
            self._bm25.index(read.tolist(), create_empty_token=False, show_progress=False)

    def scores(self, query: list[str]) -> Floats:
        """[documents]"""
        known = self._bm25.get_tokens_ids(query) if self._any else []
        if not known:
            return np.zeros(len(self.rows), np.float32)
        return np.asarray(self._bm25.get_scores_from_ids(known), np.float32)


def read_words(texts: Sequence[str], languages: Sequence[str]) -> Words:
    """What is read in each text [n], by the rules of its language."""
    tags = np.asarray(languages)
    read = np.empty(len(texts), object)
    given = np.asarray(texts, object)
    for name in np.unique(tags).tolist():
        rows = np.flatnonzero(tags == name)
        read[rows] = np.fromiter(words(given[rows].tolist(), name), object, len(rows))
    return read


def queries_of(queries: pa.Table) -> Words:
    """A task's queries as `Bm25Index` takes them."""
    return read_words(queries["text"].to_pylist(), queries["language"].to_pylist())


def _bm25() -> Any:
    try:
        import bm25s
    except ImportError:
        raise ConfigError(f"bm25 scores with the package bm25s, which is not installed; {NEEDED}") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # It shows everything by default.
    return bm25s.BM25(k1=K1, b=B, method="lucene")
