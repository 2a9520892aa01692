"""Lexical: BM25, the baseline that has learned nothing. What it misses and an encoder finds, dense training bought.

Scores are those of `bm25s` in Lucene's variant, with k1 and b of the literature's baselines (Anserini; MIRACL, BEIR).
Each language's documents have statistics of their own, so that monolingual figures are those of the usual BM25, and
so has the pool. Documents that share no word with a query all score 0, and stand at the end in the order of ids.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.search.exact_scores import Floats, Integers, key_orders, key_scores, ranking_keys
from hbt_ray.retrieval.search.ranking import DocumentRanks, Hits
from hbt_ray.retrieval.search.shard import top_keys
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
        read = tokenise_texts(texts, languages)
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
        """The first k documents that share a word with the query, in the pool: queries are rows of `tokenise_texts`."""
        k = min(k, len(self.ids))
        documents = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for number, query in enumerate(queries):
            keys = top_keys(self._keys(self._pool, query)[None], k)[0]
            found = key_scores(keys) > 0
            documents[number, : found.sum()] = self._row_of_order[key_orders(keys[found])]
            scores[number, : found.sum()] = key_scores(keys[found])
        return Hits(documents, scores)

    def places(self, queries: Words, documents: Integers) -> DocumentRanks:
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
        return DocumentRanks(own, pool)

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


def tokenise_texts(texts: Sequence[str], languages: Sequence[str]) -> Words:
    """What is read in each text [n], by the rules of its language."""
    tags = np.asarray(languages)
    read = np.empty(len(texts), object)
    given = np.asarray(texts, object)
    for name in np.unique(tags).tolist():
        rows = np.flatnonzero(tags == name)
        read[rows] = np.fromiter(tokenise_words(given[rows].tolist(), name), object, len(rows))
    return read


def tokenise_queries(queries: pa.Table) -> Words:
    """A task's queries as `Bm25Index` takes them."""
    return tokenise_texts(queries["text"].to_pylist(), queries["language"].to_pylist())


def _bm25() -> Any:
    try:
        import bm25s
    except ImportError:
        raise ConfigError(f"bm25 scores with the package bm25s, which is not installed; {NEEDED}") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # It shows everything by default.
    return bm25s.BM25(k1=K1, b=B, method="lucene")


NEEDED = "`pip install 'hbt-ray[bm25]'` brings what BM25 needs"
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー"
# A mark belongs to the script of the letter before it, though some have none of their own.
_PIECES = rf"(?P<pairs>[{_UNSPACED}][{_UNSPACED}\p{{M}}]*)|(?P<word>(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+)"
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "nb": "norwegian", "ne": "nepali",
    "nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip


def tokenise_words(texts: Sequence[str], language: str) -> list[list[str]]:
    """The words of each text, in order, with their repetitions.

    Raises:
        ConfigError: the extra `bm25` is not installed.
    """
    pieces, graphemes = _patterns()
    stem = _stemmer(language.split("-")[0])
    found = []
    for text in texts:
        own: list[str] = []
        for piece in pieces.finditer(unicodedata.normalize("NFKC", text).casefold()):
            if run := piece["pairs"]:
                letters = graphemes.findall(run)
                own += [left + right for left, right in pairwise(letters)] or letters
            else:
                own.append(piece["word"])
        found.append(list(filter(None, stem(own))))  # Some words are nothing but an ending.
    return found


@cache
def _patterns() -> tuple[Any, Any]:
    try:
        import regex
    except ImportError:
        raise ConfigError(f"bm25 reads words with the package regex, which is not installed; {NEEDED}") from None
    return regex.compile(_PIECES), regex.compile(r"\X")


@cache
def _stemmer(language: str) -> Callable[[list[str]], list[str]]:
    try:
        import Stemmer
    except ImportError:
        raise ConfigError(f"bm25 stems words with the package PyStemmer, which is not installed; {NEEDED}") from None
    name = _STEMMERS.get(language)
    stem: Callable[[list[str]], list[str]] = Stemmer.Stemmer(name).stemWords if name else list
    return stem
