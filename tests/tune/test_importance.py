from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hbt_ray.tune.importance import Importance, importance
from hbt_ray.tune.state import Trial


def trial(score: float | None, status: Any = "finished", **values: Any) -> Trial:
    rows = {5: {"AP": 0.0}, 10: {} if score is None else {"AP": score}}
    return Trial("t", "t", values, 10, status=status, rows=rows)


def test_a_grid_without_noise_is_divided_among_its_keys() -> None:
    trials = [trial(3 * a + b, a=a, b=b, seed=seed) for a, b, seed in product((0, 1), (0, 1), range(2))]
    assert importance(trials, "AP") == [
        Importance("a", pytest.approx(0.9), 2, 8, 1 / 7),
        Importance("b", pytest.approx(0.1), 2, 8, 1 / 7),
    ]


def test_the_share_is_that_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    groups = {"x": rng.normal(0, 1, 5), "y": rng.normal(1, 1, 7), "z": rng.normal(0, 2, 4)}
    trials = [trial(score, loss=name) for name, scores in groups.items() for score in scores]
    f, within = stats.f_oneway(*groups.values()).statistic, 16 - 3
    assert importance(trials, "AP") == [Importance("loss", pytest.approx(2 * f / (2 * f + within)), 3, 16, 2 / 15)]


def test_many_numbers_count_by_their_ranks() -> None:
    rates = [10.0**-i for i in range(8)]
    scores = [1, 2, 3, 5, 4, 6, 7, 8]
    found = importance([trial(s, rate=r) for r, s in zip(rates, scores, strict=True)], "AP")
    assert found == [Importance("rate", pytest.approx((1 - 6 * 2 / (8 * 63)) ** 2), 8, 8, 1 / 7)]


def test_few_numbers_may_have_their_best_in_the_middle() -> None:
    trials = [trial({1: 0.2, 2: 0.8, 3: 0.2}[value], alpha=value, seed=seed) for value in (1, 2, 3) for seed in (0, 1)]
    assert importance(trials, "AP") == [Importance("alpha", pytest.approx(1), 3, 6, 2 / 5)]


def test_lists_switches_and_what_is_unset_are_values() -> None:
    trials = [trial(float(i % 2), dims=[64, 32] if i % 2 else None, on=i < 2) for i in range(4)]
    assert importance(trials, "AP") == [Importance("dims", 1.0, 2, 4, 1 / 3), Importance("on", 0.0, 2, 4, 1 / 3)]


def test_what_cannot_be_said_is_none_and_comes_last() -> None:
    trials = [trial(float(i), base="one", name=f"n{i}", half=i > 1) for i in range(4)]
    assert importance(trials, "AP") == [
        Importance("half", pytest.approx(0.8), 2, 4, 1 / 3),
        Importance("base", None, 1, 4, None),
        Importance("name", None, 4, 4, None),
    ]
    assert importance(trials[:3], "AP")[0].share is None
    assert all(one.share is None for one in importance([trial(0.1, a=i % 2) for i in range(4)], "AP"))
    assert importance([], "AP") == []


def test_only_what_finished_and_was_measured_counts() -> None:
    trials = [trial(float(i > 1), a=int(i > 1)) for i in range(4)]
    more = [trial(9.0, "running", a=0), trial(9.0, "failed", a=0), trial(None, a=0), trial(float("nan"), a=0)]
    assert importance([*trials, *more], "AP") == [Importance("a", 1.0, 2, 4, 1 / 3)]


@pytest.mark.parametrize("values", [(0, 0, 1, 1, 2, 2), (1, 2, 3, 4, 5, 6)])
def test_chance_is_the_mean_over_all_orders_of_the_scores(values: tuple[int, ...]) -> None:
    scores = (0.1, 0.2, 0.35, 0.6, 0.65, 0.9)
    found = [
        importance([trial(score, key=value) for score, value in zip(order, values, strict=True)], "AP")[0]
        for order in permutations(scores)
    ]
    assert np.mean([one.share for one in found]) == pytest.approx(found[0].chance)


def test_what_only_some_trials_have_is_compared_with_those_without() -> None:
    trials = [trial(float(i % 2), **({"posthoc": "lir"} if i % 2 else {})) for i in range(6)]
    assert importance(trials, "AP") == [Importance("posthoc", 1.0, 2, 6, 1 / 5)]
