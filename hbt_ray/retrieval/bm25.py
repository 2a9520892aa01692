"""BM25: a lexical baseline without training, to which the gain of dense retrieval is measured.

Scores are those of `bm25s` in Lucene's variant, with k1 and b of the literature's baselines (Anserini; MIRACL, BEIR).
Each language has word statistics of its own, so monolingual figures are those of the usual BM25; the pool of all
languages has its own too. Documents that share no word with a query score 0 and are ranked last, in the order of ids.
`bm25s` does not break ties by id when it selects documents, so `ranking_keys` selects them here.

Texts are case-folded under NFKC. Words between spaces are stemmed if Snowball has a stemmer for the language. Scripts
without spaces between words, and Hangul, whose words carry their particles, become overlapping pairs of characters, as
in Lucene's analyser for Chinese, Japanese and Korean. A character is a grapheme, so vowel signs stay with their
consonant. The tokeniser of `bm25s` splits at spaces only, so a Thai or Chinese sentence would be one word.

The extra `bm25` installs what this module needs: bm25s, PyStemmer, regex.
"""

from __future__ import annotations

import importlib
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
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー"
# Some marks have no script of their own, so each one goes with the letter before it.
_PIECES = rf"(?P<pairs>[{_UNSPACED}][{_UNSPACED}\p{{M}}]*)|(?P<word>(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+)"
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "nb": "norwegian", "ne": "nepali",
    "nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip


class Bm25Index:
    """Postings of a corpus in this process: for each language, and for the pool of all languages."""

    def __init__(self, ids: Sequence[str], languages: Sequence[str], texts: Sequence[str]) -> None:
        """Index documents, given by one id, language and text each.

        Raises:
            ConfigError: the extra `bm25` is not installed.
        """
        self.ids = list(ids)
        # The order number of each row: the rank of its id among all ids (`exact_scores`).
        self._order = np.empty(len(ids), np.int64)
        self._order[sorted(range(len(ids)), key=self.ids.__getitem__)] = np.arange(len(ids))
        self._row_of_order = np.argsort(self._order)  # the inverse permutation
        self._languages = np.asarray(languages)
        tokens = tokenise_texts(texts, languages)
        self._pool = _Postings(np.arange(len(tokens)), tokens)
        names: list[str] = np.unique(self._languages).tolist()
        rows = {name: np.flatnonzero(self._languages == name) for name in names}
        # One language: its statistics are those of the pool, so the postings are shared.
        self._by_language = {
            name: _Postings(rows[name], tokens[rows[name]]) if len(names) > 1 else self._pool for name in names
        }

    @classmethod
    def of_task(cls, task: Task) -> Self:
        """An index of a task's documents."""
        return cls(*(task.documents[name].to_pylist() for name in ("doc_id", "language", "text")))

    def search(self, queries: Words, k: int) -> Hits:
        """The first k documents in the pool that share a word with the query; queries are rows of `tokenise_texts`."""
        k = min(k, len(self.ids))
        documents = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for number, query in enumerate(queries):
            keys = top_keys(self._keys(self._pool, query)[None], k)[0]
            keys = keys[key_scores(keys) > 0]  # A score of 0 means that no word is shared.
            documents[number, : len(keys)] = self._row_of_order[key_orders(keys)]
            scores[number, : len(keys)] = key_scores(keys)
        return Hits(documents, scores)

    def document_ranks(self, queries: Words, documents: Integers) -> DocumentRanks:
        """Exact ranks of rows of the corpus [n, g], -1 as padding."""
        in_language, pool = np.zeros(documents.shape, np.int64), np.zeros(documents.shape, np.int64)
        for number, query in enumerate(queries):
            columns = np.flatnonzero(documents[number] >= 0)
            rows = documents[number, columns]
            pool[number, columns] = self._ranks(self._pool, query, rows)
            for name in np.unique(self._languages[rows]).tolist():
                mask = self._languages[rows] == name
                in_language[number, columns[mask]] = self._ranks(self._by_language[name], query, rows[mask])
        return DocumentRanks(in_language, pool)

    def _ranks(self, postings: _Postings, query: list[str], rows: Integers) -> Integers:
        keys = self._keys(postings, query)
        targets = keys[np.searchsorted(postings.rows, rows)]  # [g]; `postings.rows` ascend.
        return 1 + np.asarray((keys > targets[:, None]).sum(axis=1), np.int64)

    def _keys(self, postings: _Postings, query: list[str]) -> Integers:
        return ranking_keys(postings.scores(query), self._order[postings.rows])


class _Postings:
    """BM25 over the words of some documents."""

    def __init__(self, rows: Integers, tokens: Words) -> None:
        """`rows` of the corpus ascend; `tokens` holds the words of each."""
        self.rows = rows
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # It logs all debug messages by default.
        self._bm25 = _import("bm25s").BM25(k1=K1, b=B, method="lucene")
        self._has_words = any(map(len, tokens))
        if self._has_words:
            self._bm25.index(tokens.tolist(), create_empty_token=False, show_progress=False)

    def scores(self, query: list[str]) -> Floats:
        """Scores of all documents, [documents]."""
        # If no document has a word, nothing was indexed.
        known = self._bm25.get_tokens_ids(query) if self._has_words else []
        if not known:
            return np.zeros(len(self.rows), np.float32)
        return np.asarray(self._bm25.get_scores_from_ids(known), np.float32)


def tokenise_queries(queries: pa.Table) -> Words:
    """The words of a task's queries, for `Bm25Index`."""
    return tokenise_texts(queries["text"].to_pylist(), queries["language"].to_pylist())


def tokenise_texts(texts: Sequence[str], languages: Sequence[str]) -> Words:
    """The words of each text by the rules of its language, [n]."""
    tags, column = np.asarray(languages), np.asarray(texts, object)
    tokens = np.empty(len(texts), object)
    for name in np.unique(tags).tolist():
        rows = np.flatnonzero(tags == name)
        # `fromiter`, since NumPy would make lists of equal length a two-dimensional array.
        tokens[rows] = np.fromiter(tokenise_words(column[rows].tolist(), name), object, len(rows))
    return tokens


def tokenise_words(texts: Sequence[str], language: str) -> list[list[str]]:
    """The words of each text of one language, in order, with repetitions.

    Raises:
        ConfigError: the extra `bm25` is not installed.
    """
    pieces, graphemes = _patterns()
    stem = _stemmer(language.split("-")[0])
    tokens = []
    for text in texts:
        words: list[str] = []
        for piece in pieces.finditer(unicodedata.normalize("NFKC", text).casefold()):
            if run := piece["pairs"]:
                letters = graphemes.findall(run)
                words += [left + right for left, right in pairwise(letters)] or letters  # A single letter has no pair.
            else:
                words.append(piece["word"])
        tokens.append(list(filter(None, stem(words))))  # A stem may be empty.
    return tokens


@cache
def _patterns() -> tuple[Any, Any]:
    regex = _import("regex")
    return regex.compile(_PIECES), regex.compile(r"\X")


@cache
def _stemmer(language: str) -> Callable[[list[str]], list[str]]:
    name = _STEMMERS.get(language)
    stem: Callable[[list[str]], list[str]] = _import("Stemmer").Stemmer(name).stemWords if name else list
    return stem


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"bm25 needs the package of {module}, which is not installed; `pip install 'hbt-ray[bm25]'`",
            code="MISSING_PACKAGE",
        ) from None
