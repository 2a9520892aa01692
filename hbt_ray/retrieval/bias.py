"""Language bias: does a ranking depend on the languages of question and document, and not on what they say?

Each measure takes arrays and gives a value a query; NaN marks the queries that it is not defined for, and each says
which these are. Take means within a question language first, then over languages. Some take the ranks of the relevant
documents in the pool of all languages, [queries, golds] with 0 as padding, and the languages of these documents in an
array of the same shape, of which the padding is not read; they want exact ranks, as `ShardedIndex.preceding` counts
them. The others take the first documents of each query, [queries, depth] rows of the corpus, best first, as
`ShardedIndex.search` lists them. Rank distance is in `measures`. Pure NumPy and SciPy, no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import Ranks, Values
from hbt_ray.retrieval.significance import item_ids
from hbt_ray.retrieval.tasks import Task

Documents = npt.NDArray[np.int64]
_BEYOND = np.iinfo(np.int64).max  # sorts the padding behind every rank
_ELEMENTS = 1 << 24  # comparisons of documents at a time: 16 MiB


def max_rank(ranks: npt.ArrayLike) -> Values:
    """Max@R: the worst rank of a question's parallel answers, up to which one must read to have them all (2604.05684).

    From 1, lower is better. NaN for a query without relevant documents.
    """
    array = _checked(ranks)
    return np.where(array.any(axis=1), array.max(axis=1, initial=0), np.nan)


def log_max_rank(ranks: npt.ArrayLike, num_documents: int) -> Values:
    """Max@R on a logarithmic scale from 0 (all golds come first) to 1 (one is the last of the pool); lower is better.

    (ln Max@R - ln golds) / (ln num_documents - ln golds), so that questions with different numbers of golds, and pools
    of different sizes, can be compared. 2604.05684 normalises by logarithms too; that its formula is this one could not
    be checked, so do not put these values beside the paper's. NaN for a query without relevant documents; 0 where the
    pool holds nothing else.

    Raises:
        TaskError: a rank beyond the pool.
    """
    array, worst = _checked(ranks), max_rank(ranks)
    if (array > num_documents).any():
        raise TaskError(f"rank {array.max()} in a pool of {num_documents} documents; give the size of the whole pool")
    golds = np.maximum((array > 0).sum(axis=1), 1)
    room = np.log(num_documents / golds) if num_documents else np.zeros(len(golds))
    return np.where(room > 0, np.log(worst / golds) / np.where(room > 0, room, 1.0), worst * 0)


def peer(ranks: npt.ArrayLike, languages: npt.ArrayLike, cutoff: int | None = None) -> Values:
    """PEER: probability that documents of all languages have an equal expected rank (2405.00978); 1 is fair.

    The p-value of the Kruskal-Wallis test of the documents' ranks, grouped by document language. Documents beyond the
    cutoff tie behind the others, with the mean of the places that are left to them. Fewer than two languages give 1, as
    do ties of all documents. Defined for every query. With one relevance level its weight is 1; the ranks of *all*
    documents of the top k, with their languages, ask the same of level 0.

    The test ranks the given documents among themselves, as Kruskal and Wallis do. The authors' package puts the ranks
    in the run into the formula instead, so that one far-off document weighs more; the values differ.

    Caution: with exactly one document a language and no ties, the statistic is always (documents - 1): p is one
    constant, whatever the order. On such tasks (XQuAD-R) only the ties beyond a cutoff tell anything.
    """
    array = _checked(ranks)
    held = array > 0
    seen = np.minimum(array, cutoff + 1) if cutoff else array
    places = np.where(held, stats.rankdata(np.where(held, seen, _BEYOND), axis=1), 0.0)
    counts = _per_language(held.astype(np.float64), languages)
    sums = _per_language(places, languages)
    mean = (held.sum(axis=1, keepdims=True) + 1) / 2
    between = (counts * (sums / np.maximum(counts, 1) - mean) ** 2).sum(axis=1)
    total = np.where(held, (places - mean) ** 2, 0.0).sum(axis=1)
    statistic = (held.sum(axis=1) - 1) * between / np.where(total > 0, total, 1.0)
    freedom = (counts > 0).sum(axis=1) - 1
    p = stats.chi2.sf(statistic, np.maximum(freedom, 1))
    return np.where((freedom > 0) & (total > 0), p, 1.0)


def own_language_first(ranks: npt.ArrayLike, languages: npt.ArrayLike, asked: npt.ArrayLike) -> Values:
    """1 where the best-ranked gold is one in the question's own language, else 0; `asked` [queries] are the languages.

    The mean is the language preference rate (MLAIRE, 2605.07249). It says which of equal answers comes first, and not
    whether any comes early; users may well want theirs first, so neither end is bad as such. Without a preference the
    expectation is the share of golds in the own language (1/11 in XQuAD-R). NaN for a query that has no gold in its own
    language, or none in another.
    """
    array = _checked(ranks)
    own = np.asarray(languages) == np.asarray(asked)[:, None]
    best_own, best_other = (
        np.where((array > 0) & mask, array, _BEYOND).min(axis=1, initial=_BEYOND) for mask in (own, ~own)
    )
    defined = (best_own < _BEYOND) & (best_other < _BEYOND)
    return np.where(defined, (best_own < best_other).astype(np.float64), np.nan)


def mean_rank_correlation(documents: npt.ArrayLike, items: npt.ArrayLike, k: int) -> Values:
    """MRC@k: do the translations of a question rank documents alike (LaKDA, 2024.mrl-1.23)? From -1 to 1, 1 is best.

    For a query the mean, over the other languages of its item (`items` [queries], see `significance.item_ids`), of
    Spearman's correlation between both rankings of the union of both top k. A document of one top k that the other
    ranking has beyond `depth` ties there with its like: with depth = k, two rankings without a common document are
    strongly negative. A greater depth comes closer to the definition; the whole pool is the definition. NaN for a query
    that no other query shares its item with.

    Raises:
        TaskError: k below 2, where a correlation says nothing, or beyond the depth.
    """
    rows = np.asarray(documents, dtype=np.int64)
    if not 2 <= k <= rows.shape[1]:
        raise TaskError(f"MRC@{k} of {rows.shape[1]} documents a query; k must be at least 2 and at most their number")
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    for one, other in _parallel(np.unique(np.asarray(items), return_inverse=True)[1], _ELEMENTS // (k * rows.shape[1])):
        correlation = _union_correlation(rows[one], rows[other], k)
        for side in (one, other):  # no query occurs twice on a side
            sums[side] += correlation
            counts[side] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def language_share(documents: npt.ArrayLike, languages: npt.ArrayLike) -> Values:
    """The share of each language among the first documents: [queries, depth] → [queries, languages].

    `languages` [corpus] are those of all documents; columns are the sorted distinct ones. Defined for every query.
    """
    rows = np.asarray(documents, dtype=np.int64)
    names, codes = np.unique(np.asarray(languages), return_inverse=True)
    return _tally(np.full(rows.shape, 1 / max(1, rows.shape[1])), codes[rows], len(names))


def share_distance(documents: npt.ArrayLike, languages: npt.ArrayLike, asked: npt.ArrayLike) -> dict[str, float]:
    """How far the languages of the first documents are from those of the pool, for each question language.

    Total variation, half the sum of absolute differences: it is itself a share, of the places that would have to go to
    other languages, where Jensen-Shannon has no such unit. From 0 to below 1, lower is less biased. Taken of the mean
    share of a language's questions, since ten documents of one question can never have the pool's shares.

    Args:
        documents: [queries, depth] rows of the corpus.
        languages: [corpus] of all documents.
        asked: [queries] of the questions.
    """
    shares, of_query = language_share(documents, languages), np.asarray(asked)
    _, counts = np.unique(np.asarray(languages), return_counts=True)
    pool = counts / counts.sum()
    return {
        name: float(np.abs(shares[of_query == name].mean(axis=0) - pool).sum() / 2)
        for name in np.unique(of_query).tolist()
    }


def _checked(ranks: npt.ArrayLike) -> Ranks:
    array = np.asarray(ranks)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise TaskError(f"ranks must be whole numbers from 1, 0 as padding, [queries, golds]; got {array.dtype} "
                        f"{list(array.shape)}")  # fmt: skip
    return array.astype(np.int64)


def _per_language(values: Values, languages: npt.ArrayLike) -> Values:
    """Sums of values [queries, golds] over each language: [queries, languages]."""
    names, codes = np.unique(np.asarray(languages), return_inverse=True)
    return _tally(values, codes.reshape(values.shape), len(names))


def _tally(values: Values, codes: npt.NDArray[np.int64], num_codes: int) -> Values:
    """Row by row, sums of the values of each code: [n, m] → [n, codes]."""
    cells = np.arange(len(codes))[:, None] * num_codes + codes
    sums: Values = np.bincount(cells.ravel(), values.ravel(), minlength=len(codes) * num_codes).astype(np.float64)
    return sums.reshape(len(codes), num_codes)


def _parallel(item: npt.NDArray[np.int64], size: int) -> Iterator[tuple[Documents, Documents]]:
    """All pairs of queries of one item, in chunks; in one, a query is at most once on the left and on the right."""
    order = np.argsort(item, kind="stable")
    for offset in range(1, len(item)):
        same = np.flatnonzero(item[order[:-offset]] == item[order[offset:]])
        if not len(same):
            return
        for chunk in np.array_split(same, -(-len(same) // max(1, size))):
            yield order[chunk], order[chunk + offset]


def _union_correlation(one: Documents, other: Documents, k: int) -> Values:
    """Spearman's correlation of two rankings of the union of their top k: [pairs, depth] twice → [pairs]."""
    top = np.broadcast_to(np.arange(k), (len(one), k))
    in_one, in_other = _places(other[:, :k], one), _places(one[:, :k], other)
    new = in_one >= k  # the others of the second top k are in the first already
    held = np.hstack([np.ones_like(new), new])
    x = stats.rankdata(np.where(held, np.hstack([top, in_one]), _BEYOND), axis=1)
    y = stats.rankdata(np.where(held, np.hstack([in_other, top]), _BEYOND), axis=1)
    middle = (held.sum(axis=1, keepdims=True) + 1) / 2
    x, y = (np.where(held, ranks - middle, 0.0) for ranks in (x, y))
    correlation: Values = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return correlation


def _places(documents: Documents, ranking: Documents) -> Documents:
    """Where each document stands in a ranking, from 0; its depth where it is not there: [n, k], [n, depth] → [n, k]."""
    found = documents[:, :, None] == ranking[:, None, :]
    return np.asarray(np.where(found.any(axis=2), found.argmax(axis=2), ranking.shape[1]), dtype=np.int64)


TOP_DOCUMENTS = 10
"""Documents of a question whose languages are counted, and whose order is compared with that of its translations."""
RANKING_DEPTH = 100
"""Documents of a question that the comparison of rankings knows; see `bias.mean_rank_correlation`."""
MAX_RANK = "MaxR"
OWN_LANGUAGE_FIRST = "OwnLanguageFirst"
RANK_CORRELATION = f"MRC@{TOP_DOCUMENTS}"
SHARE_DISTANCE = f"ShareDistance@{TOP_DOCUMENTS}"
QUERY_MEASURES = (MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION)


@dataclass(frozen=True)
class LanguagePreference:
    values: dict[str, Values] = field(default_factory=dict)
    """Of `QUERY_MEASURES`, one value a question; NaN where it is not defined."""
    share: dict[str, dict[str, float]] = field(default_factory=dict)
    """Question language → passage language → mean share of the first `TOP_DOCUMENTS`."""
    distance: dict[str, float] = field(default_factory=dict)
    """Question language → `ShareDistance`: how far these shares are from those of the pool."""


def language_preference(task: Task, ranks: Ranks, first: npt.NDArray[np.int64] | None = None) -> LanguagePreference:
    """What can be said of a task; nothing where its documents have one language.

    Args:
        ranks: of the task's relevant documents in the pool, [queries, relevant], 0 as padding.
        first: rows of the first documents in the pool, [queries, depth], -1 where there are fewer; best
            `RANKING_DEPTH` of them. Without it there are no shares and correlations.
    """
    languages = np.asarray(task.documents["language"].to_pylist())
    if len(np.unique(languages)) < 2:
        return LanguagePreference()
    asked = np.asarray(task.queries["language"].to_pylist())
    values = {
        MAX_RANK: max_rank(ranks),
        OWN_LANGUAGE_FIRST: own_language_first(ranks, languages[task.relevant], asked),
    }
    if first is None:
        return LanguagePreference(values)
    first = first[:, :RANKING_DEPTH]
    # An approximate index may find fewer: a share of what it found would be one of another list.
    full = (first[:, :TOP_DOCUMENTS] >= 0).all(axis=1)
    values[RANK_CORRELATION] = np.full(len(asked), np.nan)
    if min(TOP_DOCUMENTS, first.shape[1]) > 1:
        items = _parallel_items(task, asked)[full]
        values[RANK_CORRELATION][full] = mean_rank_correlation(first[full], items, min(TOP_DOCUMENTS, first.shape[1]))
    top, asked = first[full, :TOP_DOCUMENTS], asked[full]
    return LanguagePreference(values, _shares(top, languages, asked), share_distance(top, languages, asked))


def _parallel_items(task: Task, asked: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """[queries]: one number for all translations of a question.

    They share an item and the relevant documents: the first alone may be chance, as in corpora that number the
    questions of each language from 1; the second alone is two questions on one passage.
    """
    items = item_ids(np.asarray(task.queries["query_id"].to_pylist(), dtype=np.str_), asked)
    numbers = np.unique(items, return_inverse=True)[1].reshape(-1, 1)
    return np.unique(np.hstack([numbers, task.relevant]), axis=0, return_inverse=True)[1].reshape(-1)


def _shares(
    top: npt.NDArray[np.int64], languages: npt.NDArray[np.str_], asked: npt.NDArray[np.str_]
) -> dict[str, dict[str, float]]:
    names: Sequence[str] = np.unique(languages).tolist()
    shares = language_share(top, languages)
    return {
        question: dict(zip(names, shares[asked == question].mean(axis=0).tolist(), strict=True))
        for question in np.unique(asked).tolist()
    }
