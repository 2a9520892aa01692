"""Inference by resampling: is a mean of independent values different from zero, and where does it lie?

The values are the differences of two systems, one for each unit that could have been another: a query, or an item where
its translations are asked too (see `significance`). Pure NumPy and SciPy, no Ray.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
_ELEMENTS = 1 << 22  # signs at a time: 32 MiB, however many values and resamples there are


def sign_flip_p(values: npt.ArrayLike, *, resamples: int, seed: int) -> float:
    """Two-sided p-value of the paired randomisation test: values [n] that are symmetric around 0 under the null.

    Swapping the two systems on a unit flips the sign of its difference; p is the share of flips with a sum at least as
    far from 0 as the observed one. All 2^n flips are taken where these are at most `resamples`, and p is exact; else p
    is (b + 1) / (resamples + 1) for b of `resamples` random flips, as in `scipy.stats.permutation_test`, and never 0.
    Phipson and Smyth (2010) on the + 1, Smucker et al. (CIKM 2007) on the test for retrieval. Time and draws grow with
    n × resamples, memory does not.
    """
    array = np.asarray(values, dtype=np.float64)
    exact = 2 ** min(len(array), 62) <= resamples
    # Sums of the same values in another order differ in their last bits, and must count as equal.
    extreme = abs(array.sum()) - 1e-10 * np.abs(array).sum()
    total = 2 ** len(array) if exact else resamples
    step = max(1, _ELEMENTS // max(1, len(array)))
    rng = np.random.default_rng(seed)
    num_extreme = 0
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        flips = _all_flips(rows, len(array)) if exact else _random_flips(rng, len(rows), len(array))
        num_extreme += int((np.abs(array.sum() - 2 * (flips.astype(np.float64) @ array)) >= extreme).sum())
    return num_extreme / total if exact else (num_extreme + 1) / (total + 1)


def _all_flips(numbers: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint8]:
    """The binary digits of numbers: [rows] → [rows, n]."""
    return ((numbers[:, None] >> np.arange(n)) & 1).astype(np.uint8)


def _random_flips(rng: np.random.Generator, rows: int, n: int) -> npt.NDArray[np.uint8]:
    return np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)


def mean_interval(values: npt.ArrayLike, *, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """The bootstrap interval of the mean of values [n], low and high (BCa, Efron 1987; `scipy.stats.bootstrap`).

    BCa and not percentiles, since differences of ranks are skewed. Values that are all the same have an interval of no
    width; a single one says nothing of its spread, and has (-inf, inf).
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return -math.inf, math.inf
    if _alike(array):  # BCa divides by the spread
        return float(array.min()), float(array.max())
    interval = stats.bootstrap(
        (array,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, _ELEMENTS // len(array)),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_effect(values: npt.ArrayLike) -> float:
    """Cohen's d for paired values: mean / standard deviation of the differences [n] (Cohen 1988, d_z).

    0 where all differences are 0, infinite where all are one other number, NaN for a single one.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return math.nan
    mean = float(array.mean())
    if _alike(array):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / float(array.std(ddof=1))


def _alike(values: Floats) -> bool:
    """Whether they differ in their last bits at most."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down correction (1979): p-values [m] → adjusted p-values, in the same order.

    Rejecting those at most 0.05 keeps the chance of any false rejection among the m below 5 %, whatever their
    dependence. SciPy has the false discovery rate only.
    """
    array = np.asarray(p, dtype=np.float64)
    order = np.argsort(array)
    scaled = array[order] * np.arange(len(array), 0, -1)
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
