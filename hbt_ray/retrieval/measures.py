"""Retrieval measures, computed from the ranks of each query's relevant documents; nDCG also uses their grades.

Names are those of `ir-measures`, values those of trec_eval. Ranks are whole numbers from 1 in an array
[queries, relevant documents], in any order. 0 is padding where a query has fewer relevant documents, and
`NOT_RETRIEVED` marks a relevant document that is not in the ranking. Pure NumPy, no Ray.

    ranks = relevant_ranks(scores, relevant)          # from a whole score matrix; a search index counts ranks itself
    measure(["AP", "nDCG@10"], ranks)["AP"].mean()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from hbt_ray.errors import TaskError

RANK_DISTANCE = "RankDistance"
"""Worst minus best rank of the relevant documents. Over parallel answers in one pool it is the language bias of KD-SPD
(2305.09025)."""
Ranks = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
# _NO_CUTOFF < NOT_RETRIEVED < _PADDING, so `ranks <= cutoff` leaves out the last two without a mask.
NOT_RETRIEVED = int(np.iinfo(np.int64).max) - 1
_NO_CUTOFF = NOT_RETRIEVED - 1
_PADDING = NOT_RETRIEVED + 1  # sorts behind every rank


@dataclass(frozen=True)
class _SortedRanks:
    """Ranks in ascending order, then `NOT_RETRIEVED`, then the padding."""

    ranks: Ranks
    """[queries, relevant]"""
    grades: Ranks
    """[queries, relevant]; 0 at the padding."""

    @property
    def num_relevant(self) -> Values:
        """[queries]"""
        return np.asarray((self.ranks < _PADDING).sum(axis=1), dtype=np.float64)


_Measure = Callable[[_SortedRanks, int], Values]


def measure(names: Sequence[str], ranks: npt.ArrayLike, grades: npt.ArrayLike | None = None) -> dict[str, Values]:
    """Values of each measure, [queries]; NaN for a query without a value (only `RANK_DISTANCE`).

    Args:
        names: names that `parse_measure` accepts; the result has them as keys, unchanged.
        ranks: [queries, relevant].
        grades: [queries, relevant] grades of the relevant documents, whole numbers from 1. Default: all 1.

    Raises:
        TaskError: an unknown name, ranks that are not whole numbers from 0, grades that do not fit the ranks, or a
            query without relevant documents.
    """
    ordered = _sorted(ranks, grades)
    values = {}
    for name in names:
        base, cutoff = parse_measure(name)
        values[name] = _MEASURES[base](ordered, cutoff or _NO_CUTOFF)
    return values


def relevant_ranks(scores: npt.ArrayLike, relevant: npt.ArrayLike) -> Ranks:
    """Ranks of the relevant documents in a score matrix, for `measure`; among equal scores the later column is first.

    Args:
        scores: [queries, documents].
        relevant: [queries, documents], booleans.

    Returns:
        [queries, most relevant documents of a query], ascending, 0 as padding.
    """
    flags = np.asarray(relevant, dtype=bool)
    # Reversing a stable ascending sort puts the later of two equal columns first.
    order = np.argsort(np.asarray(scores), axis=1, kind="stable")[:, ::-1]
    query, place = np.nonzero(np.take_along_axis(flags, order, axis=1))
    counts = flags.sum(axis=1)
    ranks = np.zeros((len(flags), int(counts.max(initial=0))), dtype=np.int64)
    # `nonzero` lists the pairs by query; minus the start of its query, a pair's number is its column.
    ranks[query, np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)] = place + 1
    return ranks


@cache
def parse_measure(name: str) -> tuple[str, int]:
    """`nDCG@10` → (`nDCG`, 10); the cutoff is 0 for a measure over the full list. Aliases of ir-measures are accepted.

    Raises:
        TaskError: ir-measures has no such measure, or it needs more than the ranks of the relevant documents.
    """
    if name == RANK_DISTANCE:
        return RANK_DISTANCE, 0
    import ir_measures

    try:
        parsed = ir_measures.parse_measure(name)
    except (NameError, ValueError) as error:
        raise TaskError(
            f"{name!r} is not a measure ({error}); write for example AP, R@10 or nDCG@10", code="UNKNOWN_MEASURE"
        ) from None
    base, cutoff = str(parsed.NAME), parsed.params.get("cutoff", 0)
    if base not in _MEASURES or set(parsed.params) - {"cutoff"} or (base in _NEED_CUTOFF and not cutoff):
        known = ", ".join(f"{known}@k" if known in _NEED_CUTOFF else known for known in _MEASURES)
        raise TaskError(
            f"{name!r} cannot be computed from the ranks of relevant documents; known are {known}",
            code="UNKNOWN_MEASURE",
        )
    return base, int(cutoff)


def checked_ranks(ranks: npt.ArrayLike) -> Ranks:
    """The ranks as integers. Raises TaskError if they are not [queries, relevant] whole numbers from 0."""
    array = np.asarray(ranks)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise TaskError(
            f"ranks must be whole numbers from 1, 0 as padding, [queries, relevant]; got {array.dtype} "
            f"{list(array.shape)}",
            code="INVALID_RANKS",
        )
    return array.astype(np.int64)


def _sorted(ranks: npt.ArrayLike, grades: npt.ArrayLike | None) -> _SortedRanks:
    array = checked_ranks(ranks)
    is_document = array > 0
    weights = is_document.astype(np.int64) if grades is None else np.asarray(grades)
    if weights.shape != array.shape or not np.issubdtype(weights.dtype, np.integer) or (weights[is_document] < 1).any():
        raise TaskError(
            f"grades must be whole numbers from 1 in the shape of the ranks, {list(array.shape)}; got {weights.dtype} "
            f"{list(weights.shape)}",
            code="INVALID_RANKS",
        )
    empty = np.flatnonzero(~is_document.any(axis=1))
    if len(empty):
        raise TaskError(
            f"query number {empty[0]} has no relevant document; drop it, no measure is defined for it",
            code="INVALID_RANKS",
        )
    padded = np.where(is_document, array, _PADDING)
    order = np.argsort(padded, axis=1, kind="stable")
    sorted_grades = np.take_along_axis(np.where(is_document, weights, 0).astype(np.int64), order, axis=1)
    return _SortedRanks(np.take_along_axis(padded, order, axis=1), sorted_grades)


def _average_precision(ordered: _SortedRanks, cutoff: int) -> Values:
    # Ranks ascend, so column i holds relevant document number i + 1 and the precision at its rank is (i + 1) / rank.
    precision = np.arange(1, ordered.ranks.shape[1] + 1) / ordered.ranks
    sums: Values = np.where(ordered.ranks <= cutoff, precision, 0.0).sum(axis=1)
    return sums / ordered.num_relevant


def _recall(ordered: _SortedRanks, cutoff: int) -> Values:
    return np.asarray((ordered.ranks <= cutoff).sum(axis=1, dtype=np.float64) / ordered.num_relevant)


def _success(ordered: _SortedRanks, cutoff: int) -> Values:
    return np.asarray((ordered.ranks <= cutoff).any(axis=1), dtype=np.float64)


def _reciprocal_rank(ordered: _SortedRanks, cutoff: int) -> Values:
    first = ordered.ranks[:, 0]  # the best rank, since ranks ascend
    return np.where(first <= cutoff, 1.0 / first, 0.0)


def _ndcg(ordered: _SortedRanks, cutoff: int) -> Values:
    """The gain of a document is its grade, as in trec_eval; the ideal list has all relevant documents, best first."""
    discounts = np.log2(ordered.ranks.astype(np.float64) + 1.0)
    gains = np.where(ordered.ranks <= cutoff, ordered.grades / discounts, 0.0).sum(axis=1)
    places = np.arange(1, ordered.ranks.shape[1] + 1)
    # Padding has grade 0, so it sorts last and adds nothing to the ideal.
    best_first = -np.sort(-ordered.grades, axis=1)
    ideal = np.cumsum(np.where(places <= cutoff, best_first / np.log2(places + 1.0), 0.0), axis=1)
    return np.asarray(gains / ideal[:, -1])


def _rank_distance(ordered: _SortedRanks, cutoff: int) -> Values:
    """Last minus first rank; NaN if no relevant document was retrieved."""
    num_ranked = (ordered.ranks <= _NO_CUTOFF).sum(axis=1)
    # The last retrieved document; the columns behind it hold NOT_RETRIEVED and padding.
    last = np.take_along_axis(ordered.ranks, np.maximum(num_ranked - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(num_ranked > 0, (last - ordered.ranks[:, 0]).astype(np.float64), np.nan)


_MEASURES: dict[str, _Measure] = {
    "AP": _average_precision,
    "RR": _reciprocal_rank,
    "nDCG": _ndcg,
    "R": _recall,
    "Success": _success,
    RANK_DISTANCE: _rank_distance,
}
_NEED_CUTOFF = {"R", "Success"}
