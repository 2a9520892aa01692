"""Language bias: measures of how far a ranking depends on languages instead of on content.

Each measure takes arrays and returns one value per query, NaN if it is not defined for the query. Take means within a
question language first, then over languages. Some measures take the ranks of the relevant documents in the
pool of all languages, [queries, relevant] with 0 as padding; they need exact ranks (`ShardedIndex.count_preceding`).
The others take the first documents of each query, [queries, depth] rows of the corpus, best first
(`ShardedIndex.search`). `language_preference` computes all of them for a task. The rank distance is in `measures`,
since a task may list it among its measures. Pure NumPy and SciPy, no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import Ranks, Values, checked_ranks
from hbt_ray.retrieval.significance import item_ids
from hbt_ray.retrieval.tasks import Task

Documents = npt.NDArray[np.int64]
Languages = npt.NDArray[np.str_]

TOP_DOCUMENTS = 10
"""Number of first documents whose languages are counted, and whose order is compared between translations."""
RANKING_DEPTH = 100
"""Number of first documents that `mean_rank_correlation` gets for each question."""
MAX_RANK = "MaxR"
OWN_LANGUAGE_FIRST = "OwnLanguageFirst"
RANK_CORRELATION = f"MRC@{TOP_DOCUMENTS}"
SHARE_DISTANCE = f"ShareDistance@{TOP_DOCUMENTS}"
QUERY_MEASURES = (MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION)
"""Columns of the per-query table; `SHARE_DISTANCE` has one value per question language and is not among them."""
_BEYOND = np.iinfo(np.int64).max  # sorts the padding behind every rank
_ELEMENTS = 1 << 24  # comparisons of documents at a time: 16 MiB


@dataclass(frozen=True)
class LanguagePreference:
    """The bias measures of a task; all are empty if its documents have one language."""

    values: dict[str, Values] = field(default_factory=dict)
    """`QUERY_MEASURES` → one value per question; NaN if the measure is not defined for it."""
    share: dict[str, dict[str, float]] = field(default_factory=dict)
    """Question language → passage language → mean share of the first `TOP_DOCUMENTS`."""
    distance: dict[str, float] = field(default_factory=dict)
    """Question language → `share_distance`."""


def language_preference(task: Task, ranks: Ranks, top_documents: Documents | None = None) -> LanguagePreference:
    """All measures of this module for the rankings of a task.

    Args:
        ranks: [queries, relevant] ranks of the task's relevant documents in the pool, 0 as padding.
        top_documents: [queries, depth] rows of the first documents in the pool, -1 as padding; a depth of
            `RANKING_DEPTH` is best. Default: compute no shares and no rank correlation.
    """
    languages = np.asarray(task.documents["language"].to_pylist())
    if len(np.unique(languages)) < 2:
        return LanguagePreference()
    query_languages = np.asarray(task.queries["language"].to_pylist())
    values = {
        MAX_RANK: max_rank(ranks),
        # The row -1 reads some language, but its rank is 0, so the measure ignores it.
        OWN_LANGUAGE_FIRST: own_language_first(ranks, languages[task.relevant], query_languages),
    }
    if top_documents is None:
        return LanguagePreference(values)
    rows = top_documents[:, :RANKING_DEPTH]
    # An approximate index may return fewer: shares of a shorter list cannot be compared.
    full = (rows[:, :TOP_DOCUMENTS] >= 0).all(axis=1)
    values[RANK_CORRELATION] = np.full(len(query_languages), np.nan)
    # A pool of one document has no order to compare.
    if (k := min(TOP_DOCUMENTS, rows.shape[1])) > 1:
        items = _translation_groups(task, query_languages)[full]
        values[RANK_CORRELATION][full] = mean_rank_correlation(rows[full], items, k)
    top, query_languages = rows[full, :TOP_DOCUMENTS], query_languages[full]
    names: list[str] = np.unique(languages).tolist()
    shares = language_share(top, languages)
    mean_shares = {
        name: dict(zip(names, shares[query_languages == name].mean(axis=0).tolist(), strict=True))
        for name in np.unique(query_languages).tolist()
    }
    return LanguagePreference(values, mean_shares, share_distance(top, languages, query_languages))


def max_rank(ranks: npt.ArrayLike) -> Values:
    """Max@R (2604.05684): the worst rank of a question's parallel answers, to which one must read to find them all.

    From 1, lower is better. NaN for a query without relevant documents.
    """
    array = checked_ranks(ranks)
    return np.where(array.any(axis=1), array.max(axis=1, initial=0), np.nan)


def own_language_first(ranks: npt.ArrayLike, languages: npt.ArrayLike, query_languages: npt.ArrayLike) -> Values:
    """1 if the best-ranked relevant document is in the question's language, else 0.

    The mean is the language preference rate (MLAIRE, 2605.07249). It measures which of equal answers comes first, not
    whether any comes early. Neither end is better, since users may want answers in their own language first. Without
    a preference its expectation is the share of relevant documents in the question's language (1/11 in XQuAD-R). NaN
    for a query whose relevant documents are all in its own language, or all in others.

    Args:
        ranks: [queries, relevant].
        languages: [queries, relevant] languages of the relevant documents; ignored at the padding.
        query_languages: [queries].
    """
    array = checked_ranks(ranks)
    in_own = np.asarray(languages) == np.asarray(query_languages)[:, None]
    best_own, best_other = (
        np.where((array > 0) & mask, array, _BEYOND).min(axis=1, initial=_BEYOND) for mask in (in_own, ~in_own)
    )
    defined = (best_own < _BEYOND) & (best_other < _BEYOND)
    return np.where(defined, (best_own < best_other).astype(np.float64), np.nan)


def mean_rank_correlation(documents: npt.ArrayLike, items: npt.ArrayLike, k: int) -> Values:
    """MRC@k: do the translations of a question rank documents alike (LaKDA, 2024.mrl-1.23)? From -1 to 1, 1 is best.

    For each other translation, both rankings order the union of both top k; the value is the mean of Spearman's
    correlations. Documents that a ranking has beyond `depth` tie at its end: with depth = k, two rankings without a
    common document are strongly negative. A greater depth comes closer to the definition, which uses the whole pool.
    NaN for a query whose item no other query has.

    Args:
        documents: [queries, depth] rows of the corpus, best first.
        items: [queries] labels that are equal for translations of one question.

    Raises:
        TaskError: k is below 2, where a correlation is not defined, or beyond the depth.
    """
    rows = np.asarray(documents, dtype=np.int64)
    if not 2 <= k <= rows.shape[1]:
        raise TaskError(
            f"MRC@{k} of {rows.shape[1]} documents a query; k must be at least 2 and at most their number",
            code="INVALID_RANKS",
        )
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    item = np.unique(np.asarray(items), return_inverse=True)[1]
    for left, right in _pairs_of_items(item, _ELEMENTS // (k * rows.shape[1])):
        correlation = _union_correlation(rows[left], rows[right], k)
        for side in (left, right):  # a query occurs at most once on a side, so += is safe
            sums[side] += correlation
            counts[side] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def language_share(documents: npt.ArrayLike, languages: npt.ArrayLike) -> Values:
    """The share of each language among the first documents: [queries, depth] → [queries, languages].

    `languages` [corpus] holds the language of every document; columns are its distinct values, sorted. Every query has
    a value.
    """
    rows = np.asarray(documents, dtype=np.int64)
    names, codes = np.unique(np.asarray(languages), return_inverse=True)
    # Count by one bincount over (query, language) cells.
    cells = np.arange(len(rows))[:, None] * len(names) + codes[rows]
    weights = np.full(rows.shape, 1 / max(1, rows.shape[1]))
    sums = np.bincount(cells.ravel(), weights.ravel(), minlength=len(rows) * len(names)).astype(np.float64)
    return np.asarray(sums.reshape(len(rows), len(names)))


def share_distance(
    documents: npt.ArrayLike, languages: npt.ArrayLike, query_languages: npt.ArrayLike
) -> dict[str, float]:
    """Distance of the languages of the first documents from those of the pool, for each question language.

    The distance is the total variation, half the sum of absolute differences: the share of places that would have to go
    to other languages. The Jensen-Shannon divergence has no such unit. From 0 to below 1, lower is less biased. The
    mean share over a language's questions is compared, since ten documents of one question never have the pool's
    shares.

    Args:
        documents: [queries, depth] rows of the corpus.
        languages: [corpus] languages of all documents.
        query_languages: [queries].
    """
    shares, of_query = language_share(documents, languages), np.asarray(query_languages)
    _, counts = np.unique(np.asarray(languages), return_counts=True)
    pool = counts / counts.sum()
    return {
        name: float(np.abs(shares[of_query == name].mean(axis=0) - pool).sum() / 2)
        for name in np.unique(of_query).tolist()
    }


def _translation_groups(task: Task, query_languages: Languages) -> npt.NDArray[np.int64]:
    """[queries]: one number for all translations of a question, which share an item and the relevant documents.

    An equal item alone may be chance, since some corpora number the questions of each language from 1. Equal relevant
    documents alone may belong to two questions about one passage.
    """
    items = item_ids(np.asarray(task.queries["query_id"].to_pylist(), dtype=np.str_), query_languages)
    numbers = np.unique(items, return_inverse=True)[1].reshape(-1, 1)
    return np.unique(np.hstack([numbers, task.relevant]), axis=0, return_inverse=True)[1].reshape(-1)


def _pairs_of_items(item: npt.NDArray[np.int64], size: int) -> Iterator[tuple[Documents, Documents]]:
    """All pairs of queries of one item in chunks of at most `size`; a query occurs at most once on a chunk's side."""
    # Sorted, the queries of an item are neighbours: each offset pairs a query with one other. If no item reaches an
    # offset, none reaches a greater one.
    order = np.argsort(item, kind="stable")
    for offset in range(1, len(item)):
        same = np.flatnonzero(item[order[:-offset]] == item[order[offset:]])
        if not len(same):
            return
        for chunk in np.array_split(same, -(-len(same) // max(1, size))):
            yield order[chunk], order[chunk + offset]


def _union_correlation(left: Documents, right: Documents, k: int) -> Values:
    """Spearman's correlation of two rankings of the union of their top k: [pairs, depth] twice → [pairs]."""
    # Columns [pairs, 2k]: the top k of the left ranking, then that of the right one without what both share.
    top = np.broadcast_to(np.arange(k), (len(left), k))
    places_in_left, places_in_right = _places(right[:, :k], left), _places(left[:, :k], right)
    new = places_in_left >= k  # the others of the right top k are in the left one already
    in_union = np.hstack([np.ones_like(new), new])
    # Average ranks for ties; the documents outside the union sort last, so they do not move the ranks within.
    x = stats.rankdata(np.where(in_union, np.hstack([top, places_in_left]), _BEYOND), axis=1)
    y = stats.rankdata(np.where(in_union, np.hstack([places_in_right, top]), _BEYOND), axis=1)
    middle = (in_union.sum(axis=1, keepdims=True) + 1) / 2  # mean of the ranks 1 to n
    x, y = (np.where(in_union, ranks - middle, 0.0) for ranks in (x, y))
    correlation: Values = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return correlation


def _places(documents: Documents, ranking: Documents) -> Documents:
    """Position of each document in a ranking, from 0; the depth if it is not there: [n, k], [n, depth] → [n, k]."""
    equal = documents[:, :, None] == ranking[:, None, :]  # [n, k, depth]
    return np.asarray(np.where(equal.any(axis=2), equal.argmax(axis=2), ranking.shape[1]), dtype=np.int64)
