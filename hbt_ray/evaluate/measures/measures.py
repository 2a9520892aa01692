"""Measures from ranks: all that a binary measure needs are the ranks of a query's relevant documents.

Names are those of `ir-measures`, values those of trec_eval. Ranks are whole numbers from 1 in an array
[queries, relevant documents] in any order, with 0 as padding where a query has fewer. Pure NumPy, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from hbt_ray.errors import TaskError

RANK_DISTANCE = "RankDistance"
"""Worst minus best rank of the relevant documents; over parallel answers in one pool, the language bias (KD-SPD)."""
Ranks = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
_Measure = Callable[[Ranks, int], Values]
_ENDLESS = int(np.iinfo(np.int64).max)  # cutoff of a measure over the full list, and rank of the padding


def measure(names: Sequence[str], ranks: npt.ArrayLike) -> dict[str, Values]:
    """Name as given → one value a query, [queries].

    Raises:
        TaskError: an unknown name, ranks that are not [queries, relevant] whole numbers from 0, or a query without any.
    """
    ordered = _ordered(ranks)
    values = {}
    for name in names:
        base, cutoff = parse(name)
        values[name] = _MEASURES[base](ordered, cutoff or _ENDLESS)
    return values


@cache
def parse(name: str) -> tuple[str, int]:
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
        raise TaskError(f"{name!r} cannot be had from the ranks of binary judgements; known are {known}")
    return base, int(cutoff)


def _ordered(ranks: npt.ArrayLike) -> Ranks:
    """Ranks in ascending order with the padding last, as a rank beyond every cutoff."""
    array = np.asarray(ranks)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise TaskError(f"ranks must be whole numbers from 1, 0 as padding, [queries, relevant]; got {array.dtype} "
                        f"{list(array.shape)}")  # fmt: skip
    empty = np.flatnonzero(~(array > 0).any(axis=1))
    if len(empty):
        raise TaskError(f"query number {empty[0]} has no relevant document; drop it, no measure is defined for it")
    return np.sort(np.where(array > 0, array, _ENDLESS).astype(np.int64), axis=1)


def _num_relevant(ranks: Ranks) -> Values:
    return np.asarray((ranks < _ENDLESS).sum(axis=1), dtype=np.float64)


def _hits(ranks: Ranks, cutoff: int) -> npt.NDArray[np.bool_]:
    return (ranks <= cutoff) & (ranks < _ENDLESS)


def _average_precision(ranks: Ranks, cutoff: int) -> Values:
    precision = np.arange(1, ranks.shape[1] + 1) / ranks
    sums: Values = np.where(_hits(ranks, cutoff), precision, 0.0).sum(axis=1)
    return sums / _num_relevant(ranks)


def _recall(ranks: Ranks, cutoff: int) -> Values:
    num_hits: Values = _hits(ranks, cutoff).sum(axis=1, dtype=np.float64)
    return num_hits / _num_relevant(ranks)


def _success(ranks: Ranks, cutoff: int) -> Values:
    return np.asarray(_hits(ranks, cutoff).any(axis=1), dtype=np.float64)


def _reciprocal_rank(ranks: Ranks, cutoff: int) -> Values:
    return np.where(ranks[:, 0] <= cutoff, 1.0 / ranks[:, 0], 0.0)


def _ndcg(ranks: Ranks, cutoff: int) -> Values:
    gains = np.where(_hits(ranks, cutoff), 1.0 / np.log2(ranks.astype(np.float64) + 1.0), 0.0).sum(axis=1)
    places = np.arange(1, ranks.shape[1] + 1)
    ideal = np.cumsum(np.where(places <= cutoff, 1.0 / np.log2(places + 1.0), 0.0))
    return np.asarray(gains / ideal[_num_relevant(ranks).astype(np.int64) - 1])


def _rank_distance(ranks: Ranks, cutoff: int) -> Values:
    last = np.take_along_axis(ranks, _num_relevant(ranks).astype(np.int64)[:, None] - 1, axis=1)[:, 0]
    return (last - ranks[:, 0]).astype(np.float64)


_MEASURES: dict[str, _Measure] = {
    "AP": _average_precision,
    "RR": _reciprocal_rank,
    "nDCG": _ndcg,
    "R": _recall,
    "Success": _success,
    RANK_DISTANCE: _rank_distance,
}
_NEED_CUTOFF = {"R", "Success"}
