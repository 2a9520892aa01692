"""The critical batch size: hand-made curves, simulated searches with a known answer, and the paper's own figures."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from hbt_ray.tune.critical_batch import CriticalBatchFit, NoFit, critical_batch, fit, steps_to
from hbt_ray.tune.search_state import Trial

SIZES = (32, 64, 128, 256, 512, 1024)


def trial(batch: int, rows: dict[int, float], seed: int = 0, measure: str = "AP", **values: float) -> Trial:
    kept = {step: {measure: value} for step, value in rows.items()}
    return Trial("t", "t", {"plan.batch_size": batch, "seed": seed, **values}, max(rows), status="finished", rows=kept)


def straight(batch: int, steps: float, seed: int = 0, **values: float) -> Trial:
    """Reaches 0.5 after so many steps, and ends at 0.6."""
    return trial(batch, {i: 0.05 * i * 10 / steps for i in np.arange(0, 13) * steps / 10}, seed, **values)


def search(a: float, b: float, noise: float, rng: np.random.Generator, seeds: int = 2) -> list[Trial]:
    return [
        straight(size, (a + b / size) * math.exp(noise * rng.standard_normal()), seed)
        for size, seed in product(SIZES, range(seeds))
    ]


def fitted(trials: list[Trial], target: float | None = 0.5) -> CriticalBatchFit:
    result = critical_batch(trials, "AP", target=target)
    assert isinstance(result, CriticalBatchFit)
    return result


def test_a_target_is_reached_between_two_rows() -> None:
    curve = [(10, 0.25), (20, 0.5), (30, 0.375), (40, 0.875)]
    assert steps_to(curve, 0.375) == 15  # The first time.
    assert steps_to(curve, 0.5) == 20
    assert steps_to(curve, 0.75) == 37.5  # Not what it had before it fell.
    assert steps_to(curve, 0.125) == 10
    assert steps_to(curve, 0.88) is None


PAPER = {  # Million parameters → steps at batch sizes 64, 128, …, 16384; the critical size, in sequences.
    85: ((46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600), 745.3),
    151: ((96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300), 955),
    302: ((196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879), 1394),
    604: ((311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800), 1889),
    1200: ((642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500), 2533),
}


@pytest.mark.parametrize("model", PAPER)
def test_the_papers_critical_sizes_follow_from_its_steps(model: int) -> None:
    """From hlzhang109/critical-batch-size, plots/chinchilla.ipynb; linear scaling starts from 256."""
    steps, critical = PAPER[model]
    result = fitted([straight(64 * 2**i, count) for i, count in enumerate(steps)])
    shift = 1.2 * 256
    assert result.estimate + shift == pytest.approx(critical, rel=0.0005)
    assert result.interval[0] + shift < critical < result.interval[1] + shift


def test_the_rule_holds_at_the_critical_size() -> None:
    result = fitted(search(100, 64000, 0, np.random.default_rng(0)))
    at = np.array([result.estimate])
    assert result.steps(at) == pytest.approx(1.2 * result.linear(at))
    assert result.critical == pytest.approx(128)


def test_a_fit_without_noise_is_exact() -> None:
    sizes = np.array(SIZES, dtype=float)
    assert fit(sizes, 70 + 9000 / sizes) == pytest.approx((70, 9000), rel=1e-5)
    a, b = fit(sizes, 9000 / sizes)
    assert (a, b) == (0, pytest.approx(9000))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    held, widths = 0, []
    for _ in range(100):
        low, high = fitted(search(100, 64000, 0.08, rng, seeds)).interval
        held += low <= 128 <= high
        widths.append(high / low)
    assert held >= 88
    assert np.median(widths) < 6


def test_linear_scaling_shows_no_limit() -> None:
    exact = fitted(search(0, 64000, 0, np.random.default_rng(0)))
    assert exact.a == 0
    assert exact.estimate == math.inf
    assert exact.critical is None
    assert "No limit seen up to a batch size of 1,024" in exact.text
    noisy = [fitted(search(0, 64000, 0.05, np.random.default_rng(seed))) for seed in range(20)]
    assert sum(math.isinf(result.interval[1]) for result in noisy) >= 18
    bounded = next(result for result in noisy if result.critical is None)
    assert f"at least {bounded.interval[0]:,.0f}" in bounded.text


def test_sizes_above_the_critical_one_are_told_apart() -> None:
    result = fitted(search(1000, 3200, 0, np.random.default_rng(0)))
    assert result.critical is None
    assert result.text.startswith("The critical batch size is below 32")


def test_the_best_rate_of_each_size_counts_with_all_its_seeds() -> None:
    trials = []
    for size in SIZES:
        steps = 100 + 64000 / size
        for seed in range(2):
            trials.append(straight(size, steps * (1 + 0.01 * seed), seed, rate=1.0))
            trials.append(straight(size, 2 * steps, seed, rate=2.0))
        trials.append(straight(size, steps / 3, 0, rate=4.0))
        trials.append(trial(size, {0: 0.0, 10: 0.1}, 1, rate=4.0))  # Fast once, and never again.
    result = fitted(trials)
    assert [point.values for point in result.points] == [{"rate": 1.0}] * len(SIZES)
    assert [point.batch for point in result.points] == list(SIZES)
    assert result.points[0].steps == pytest.approx((2100, 2121))


def test_the_target_is_what_every_size_reaches() -> None:
    trials = [trial(size, {0: 0.0, 100: 0.3, 200: top}) for size, top in ((32, 0.5), (64, 0.45), (128, 0.6))]
    trials.append(trial(64, {0: 0.0, 100: 0.1, 200: 0.2}, rate=3.0))
    result = fitted(trials, target=None)
    assert result.target == 0.45
    assert result.points[1].steps == (200,)
    assert result.points[0].steps == pytest.approx((175,))


def test_a_loss_has_to_fall() -> None:
    trials = [
        trial(size, {0: 5.0, 100: 3.0, 200: low}, measure="pool_loss")
        for size, low in ((32, 1.0), (64, 2.0), (128, 1.5))
    ]
    result = critical_batch(trials, "pool_loss")
    assert isinstance(result, CriticalBatchFit)
    assert result.target == 2.0
    assert [point.steps for point in result.points] == [(150,), (200,), (pytest.approx(100 + 100 / 1.5),)]


def test_too_few_sizes_are_a_reason_and_no_error() -> None:
    trials = [straight(size, 100) for size in (32, 64)] + [trial(128, {0: 0.0, 100: 0.2}), trial(256, {10: 0.7, 20: 1})]
    result = critical_batch(trials, "AP", target=0.5)
    assert result == NoFit(
        "2 batch sizes tell when they reach AP = 0.5, and a fit of a + b / B needs 3; 128 does not reach the target; "
        "256 reaches the target before its first validation"
    )
    assert isinstance(critical_batch([], "AP"), NoFit)
    assert isinstance(critical_batch(trials, "RankDistance"), NoFit)


def test_only_trials_that_ended_count() -> None:
    trials = search(100, 64000, 0, np.random.default_rng(0))
    going = straight(32, 5, 7)
    going.status = "running"
    once = trial(32, {5: 0.9}, 8, posthoc=1.0)
    assert fitted([*trials, going, once]) == fitted(trials)
