"""Importance: which of the searched keys an objective depends on.

Each key by itself, over whatever the others were: in a grid that is fair, in a search that steers itself it leans
towards where the search went. Two keys that only matter together show little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from hbt_ray.tune.space import SEED
from hbt_ray.tune.state import Trial

_MIN_TRIALS = 4
_MANY = 5
"""Distinct numbers up to which each counts as a value of its own."""


@dataclass(frozen=True)
class Importance:
    """Of one key."""

    key: str
    share: float | None
    """Of the objective's variance over trials, 0 to 1; None where it cannot be said."""
    values: int
    """Distinct ones among the trials."""
    trials: int
    """That were measured."""
    chance: float | None
    """The share to expect of a key that does nothing: with few trials it is not 0."""


def importance(trials: Sequence[Trial], objective: str) -> list[Importance]:
    """What each key explains of an objective at the last step of finished trials, the most important first.

    Numbers with more than five distinct values: Spearman's rho², the share that ranks explain; a key whose best value
    lies in the middle has less than it should. Everything else: eta², the share of variance between values (Fisher).
    The seed is no key; to have no value of a key is a value of its own, such as no fix after training. A share cannot
    be said of fewer than four trials, of an objective or a key that is always the same, and of a key that has another
    value in each trial and is no number. Chance is the mean over all permutations of the scores: 1 / (n - 1) of rho²,
    (k - 1) / (n - 1) of eta² for n trials with k values.
    """
    known = [(dict(trial.group), trial.last(objective)) for trial in trials if trial.status == "finished"]
    scored = [(values, score) for values, score in known if score is not None and math.isfinite(score)]
    keys = dict.fromkeys(key for values, _ in scored for key in values if key != SEED)
    found = [_of(key, [(values.get(key), score) for values, score in scored]) for key in keys]
    return sorted(found, key=lambda one: -1.0 if one.share is None else one.share, reverse=True)


def _of(key: str, pairs: list[tuple[Any, float]]) -> Importance:
    values, scores = [value for value, _ in pairs], np.array([score for _, score in pairs])
    distinct, count = len(set(values)), len(pairs)
    if count < _MIN_TRIALS or distinct < 2 or np.ptp(scores) <= 1e-12 * np.abs(scores).max():
        return Importance(key, None, distinct, count, None)
    if distinct > _MANY and all(isinstance(value, int | float) for value in values):
        share = float(stats.spearmanr(values, scores).statistic) ** 2
        return Importance(key, share, distinct, count, 1 / (count - 1))
    if distinct == count:
        return Importance(key, None, distinct, count, None)
    return Importance(key, _between(values, scores), distinct, count, (distinct - 1) / (count - 1))


def _between(values: list[Any], scores: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Eta²: squares between the means of values, as a share of all squares."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    groups = np.array([numbers[value] for value in values])
    means = np.bincount(groups, scores) / np.bincount(groups)
    return float(((means[groups] - scores.mean()) ** 2).sum() / ((scores - scores.mean()) ** 2).sum())
