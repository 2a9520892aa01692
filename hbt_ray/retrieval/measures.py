"""Measures from ranks: all that a measure needs are the ranks of a query's relevant documents, and nDCG their grades.

Names are those of `ir-measures`, values those of trec_eval. Ranks are whole numbers from 1 in an array
[queries, relevant documents] in any order, with 0 as padding where a query has fewer, and `NOT_RETRIEVED` for a
relevant document that no list has. Pure NumPy, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from hbt_ray.errors import TaskError

RANK_DISTANCE = "RankDistance"
"""Worst minus best rank of the relevant documents; over parallel answers in one pool, the language bias (KD-SPD)."""
Ranks = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
NOT_RETRIEVED = int(np.iinfo(np.int64).max) - 1
_ENDLESS = NOT_RETRIEVED - 1  # cutoff of a measure over the full list
_PADDING = NOT_RETRIEVED + 1


@dataclass(frozen=True)
class _Judged:
    """Ranks in ascending order, then `NOT_RETRIEVED`, then the padding."""

    ranks: Ranks
    grades: Ranks
    """Of each, 0 at the padding."""


_Measure = Callable[[_Judged, int], Values]


def measure(names: Sequence[str], ranks: npt.ArrayLike, grades: npt.ArrayLike | None = None) -> dict[str, Values]:
    """Name as given → one value a query, [queries]; NaN where the measure is not defined (`RANK_DISTANCE`).

    Args:
        grades: of the relevant documents, whole numbers from 1, in the shape of the ranks; default: all 1.

    Raises:
        TaskError: an unknown name, ranks that are not [queries, relevant] whole numbers from 0, grades that do not fit
            them, or a query without any.
    """
    judged = _ordered(ranks, grades)
    values = {}
    for name in names:
        base, cutoff = parse_measure(name)
        values[name] = _MEASURES[base](judged, cutoff or _ENDLESS)
    return values


@cache
def parse_measure(name: str) -> tuple[str, int]:
    """`nDCG@10` → (`nDCG`, 10); the cutoff is 0 for a measure over the full list. Aliases of ir-measures are known.

    Raises:
        TaskError: a name that ir-measures does not know, or a measure that ranks of relevant documents do not give.
    """
    if name == RANK_DISTANCE:
        return RANK_DISTANCE, 0
    import ir_measures

    try:
        parsed = ir_measures.parse_measure(name)
    except (NameError, ValueError) as error:
        raise TaskError(f"{name!r} is no measure ({error}); write for example AP, R@10 or nDCG@10") from None
    base, cutoff = str(parsed.NAME), parsed.params.get("cutoff", 0)
    if base not in _MEASURES or set(parsed.params) - {"cutoff"} or (base in _NEED_CUTOFF and not cutoff):
        known = ", ".join(f"{known}@k" if known in _NEED_CUTOFF else known for known in _MEASURES)
        raise TaskError(f"{name!r} cannot be had from the ranks of relevant documents; known are {known}")
    return base, int(cutoff)


def _ordered(ranks: npt.ArrayLike, grades: npt.ArrayLike | None) -> _Judged:
    array = np.asarray(ranks)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise TaskError(f"ranks must be whole numbers from 1, 0 as padding, [queries, relevant]; got {array.dtype} "
                        f"{list(array.shape)}")  # fmt: skip
    held = array > 0
    weights = held.astype(np.int64) if grades is None else np.asarray(grades)
    if weights.shape != array.shape or not np.issubdtype(weights.dtype, np.integer) or (weights[held] < 1).any():
        raise TaskError(f"grades must be whole numbers from 1 in the shape of the ranks, {list(array.shape)}; got "
                        f"{weights.dtype} {list(weights.shape)}")  # fmt: skip
    empty = np.flatnonzero(~held.any(axis=1))
    if len(empty):
        raise TaskError(f"query number {empty[0]} has no relevant document; drop it, no measure is defined for it")
    filled = np.where(held, array, _PADDING).astype(np.int64)
    order = np.argsort(filled, axis=1, kind="stable")
    ordered = np.take_along_axis(np.where(held, weights, 0).astype(np.int64), order, axis=1)
    return _Judged(np.take_along_axis(filled, order, axis=1), ordered)


def _num_relevant(judged: _Judged) -> Values:
    return np.asarray((judged.ranks < _PADDING).sum(axis=1), dtype=np.float64)


def _hits(judged: _Judged, cutoff: int) -> npt.NDArray[np.bool_]:
    return judged.ranks <= cutoff


def _average_precision(judged: _Judged, cutoff: int) -> Values:
    precision = np.arange(1, judged.ranks.shape[1] + 1) / judged.ranks
    sums: Values = np.where(_hits(judged, cutoff), precision, 0.0).sum(axis=1)
    return sums / _num_relevant(judged)


def _recall(judged: _Judged, cutoff: int) -> Values:
    num_hits: Values = _hits(judged, cutoff).sum(axis=1, dtype=np.float64)
    return num_hits / _num_relevant(judged)


def _success(judged: _Judged, cutoff: int) -> Values:
    return np.asarray(_hits(judged, cutoff).any(axis=1), dtype=np.float64)


def _reciprocal_rank(judged: _Judged, cutoff: int) -> Values:
    first = judged.ranks[:, 0]
    return np.where(first <= cutoff, 1.0 / first, 0.0)


def _ndcg(judged: _Judged, cutoff: int) -> Values:
    """The gain of a document is its grade, as in trec_eval; the ideal list has all relevant documents, best first."""
    discounts = np.log2(judged.ranks.astype(np.float64) + 1.0)
    gains = np.where(_hits(judged, cutoff), judged.grades / discounts, 0.0).sum(axis=1)
    places = np.arange(1, judged.ranks.shape[1] + 1)
    best_first = -np.sort(-judged.grades, axis=1)
    ideal = np.cumsum(np.where(places <= cutoff, best_first / np.log2(places + 1.0), 0.0), axis=1)
    return np.asarray(gains / ideal[:, -1])


def _rank_distance(judged: _Judged, cutoff: int) -> Values:
    """NaN where no relevant document has a rank."""
    num_ranked = _hits(judged, _ENDLESS).sum(axis=1)
    last = np.take_along_axis(judged.ranks, np.maximum(num_ranked - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(num_ranked > 0, (last - judged.ranks[:, 0]).astype(np.float64), np.nan)


_MEASURES: dict[str, _Measure] = {
    "AP": _average_precision,
    "RR": _reciprocal_rank,
    "nDCG": _ndcg,
    "R": _recall,
    "Success": _success,
    RANK_DISTANCE: _rank_distance,
}
_NEED_CUTOFF = {"R", "Success"}
