from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hbt_ray.retrieval.significance import holm, mean_interval, paired_effect, sign_flip_p

SMALL = [
    [0.3],
    [0.0, 0.0],
    [1.0, -1.0, 1.0],
    [0.1, 0.2, 0.3],
    [1.0, 1.0, 1.0, 1.0, 0.0],
    [0.5, -0.2, 0.9, 0.4, -0.1, 2.0],
]


def enumerated(values: list[float]) -> float:
    """The share of all 2^n sign patterns whose sum is at least as far from 0, in whole numbers of tenths."""
    tenths = [round(10 * value) for value in values]
    sums = [
        abs(sum(s * v for s, v in zip(signs, tenths, strict=True))) for signs in product((1, -1), repeat=len(tenths))
    ]
    return sum(total >= abs(sum(tenths)) for total in sums) / len(sums)


@pytest.mark.parametrize("values", SMALL)
def test_few_values_are_tested_exactly(values: list[float]) -> None:
    assert sign_flip_p(values, resamples=1000, seed=0) == enumerated(values)


# Eighths, whose sums are exact: scipy takes sums for different that differ in their last bits.
@given(st.lists(st.integers(-20, 20).map(lambda eighths: eighths / 8), min_size=2, max_size=9))
def test_the_exact_test_is_scipys(values: list[float]) -> None:
    theirs = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=10_000)
    assert sign_flip_p(values, resamples=10_000, seed=0) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_flips_agree_with_scipy() -> None:
    """Both draw 20,000 flips at random: three standard deviations of a share of 0.15 are 0.008, for each of the two."""
    values = np.random.default_rng(4).normal(0.25, 1.0, 40)
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(5)
    )
    ours = sign_flip_p(values, resamples=20_000, seed=6)
    assert 0.02 < ours < 0.5
    assert ours == pytest.approx(theirs.pvalue, abs=0.016)


def test_p_is_never_zero_and_draws_are_seeded() -> None:
    clear = np.ones(100) + np.arange(100) / 1000
    assert sign_flip_p(clear, resamples=999, seed=0) == 1 / 1000
    unclear = np.random.default_rng(0).normal(0.1, 1.0, 60)
    assert sign_flip_p(unclear, resamples=999, seed=7) == sign_flip_p(unclear, resamples=999, seed=7)
    assert len({sign_flip_p(unclear, resamples=999, seed=seed) for seed in range(9)}) > 1


def test_what_does_not_differ_has_p_one() -> None:
    assert sign_flip_p(np.zeros(500), resamples=999, seed=0) == 1.0
    assert mean_interval(np.zeros(500), level=0.95, resamples=99, seed=0) == (0.0, 0.0)
    assert paired_effect(np.zeros(500)) == 0.0


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 64)
    whole = sign_flip_p(values, resamples=2000, seed=3)
    monkeypatch.setattr("hbt_ray.retrieval.significance._ELEMENTS", 64 * 7)
    assert sign_flip_p(values, resamples=2000, seed=3) == whole
    few = values[:9]
    assert sign_flip_p(few, resamples=2000, seed=3) == pytest.approx(
        stats.permutation_test((few,), np.sum, permutation_type="samples", n_resamples=2000).pvalue
    )


@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_cover_the_true_mean(skewed: bool) -> None:
    """Were the coverage exact, 99.9 % of all such experiments would hold the mean in 271 to 296 of 300 intervals."""
    rng = np.random.default_rng(11)
    draw, mean = (rng.exponential, 1.0) if skewed else (rng.normal, 0.0)
    held = 0
    for seed in range(300):
        low, high = mean_interval(draw(size=80), level=0.95, resamples=600, seed=seed)
        held += low <= mean <= high
    least, most = stats.binom.interval(0.999, 300, 0.95)
    assert (least, most) == (271, 296)
    assert least <= held <= most


def test_intervals_narrow_with_the_level_and_widen_with_the_spread() -> None:
    values = np.random.default_rng(2).normal(1.0, 2.0, 200)
    low, high = mean_interval(values, level=0.95, resamples=2000, seed=0)
    standard_error = values.std(ddof=1) / np.sqrt(200)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * standard_error, values.mean() + 1.96 * standard_error), abs=0.05
    )
    inner = mean_interval(values, level=0.5, resamples=2000, seed=0)
    assert low < inner[0] < inner[1] < high


def test_one_value_says_nothing_of_its_spread() -> None:
    assert mean_interval([0.4], level=0.95, resamples=99, seed=0) == (-math.inf, math.inf)
    assert math.isnan(paired_effect([0.4]))
    assert sign_flip_p([0.4], resamples=99, seed=0) == 1.0


def test_effect_by_hand() -> None:
    assert paired_effect([1.0, 2.0, 3.0]) == pytest.approx(2.0)  # mean 2, standard deviation 1
    assert paired_effect([-1.0, -2.0, -3.0]) == pytest.approx(-2.0)
    assert paired_effect([0.1 + 0.2, 0.3]) == math.inf  # alike but for the last bit


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04: times 4, 3, 2, 1 gives .02 .03 .06 .04; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.03]).tolist() == [0.03]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= np.asarray(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1.0, len(p) * np.asarray(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
