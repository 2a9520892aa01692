"""The critical batch size: up to it, larger batches save nearly as many steps as they cost examples.

How Does Critical Batch Size Scale in Pre-training? (Zhang et al., ICLR 2025, 2410.21676): train at several batch sizes
until a fixed value is reached, take the best learning rate of each size, and fit steps(B) = a + b / B to them. Linear
scaling predicts b / B steps, where small batches start. At the critical size B = (1.2 - 1) b / a, 1.2 times that is
needed. The paper scales from a batch size of 256, which adds 1.2 × 256.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from hbt_ray.tune.config import sign
from hbt_ray.tune.search_state import Trial
from hbt_ray.tune.space import SEED

EXCESS = 1.2
"""Factor over the steps of linear scaling that defines the critical size."""
LEVEL = 0.95
"""Confidence level of the interval."""
_MIN_SIZES = 3
_NUM_RESAMPLES = 2000
_NUM_RATIOS = 1001  # Candidates for b / a, 2 % apart.

Floats = NDArray[np.float64]
Curve = list[tuple[int, float]]
"""Steps, ascending, and the objective with a sign such that higher is better."""
Choices = dict[str, list[tuple[Trial, Curve]]]
"""Values other than the batch size and the seed → the trials of all seeds."""


@dataclass(frozen=True)
class BatchSizePoint:
    """A batch size with its best other values."""

    batch: float
    values: Mapping[str, Any]
    """Values of the other keys, such as the learning rate."""
    steps: tuple[float, ...]
    """Steps to the target, one for each seed."""


@dataclass(frozen=True)
class NoFit:
    """No critical batch size could be fitted."""

    reason: str


@dataclass(frozen=True)
class CriticalBatchFit:
    """The fit, and the critical batch size that follows from it."""

    objective: str
    target: float
    points: tuple[BatchSizePoint, ...]
    """Ascending by batch size."""
    a: float
    """Steps that no batch size saves."""
    b: float
    """Examples that small batches need: they take b / B steps."""
    estimate: float
    """Batch size that needs `EXCESS` times the steps of linear scaling; infinite if a = 0."""
    interval: tuple[float, float]
    """95 % interval of the estimate; its upper end is infinite if the steps agree with linear scaling."""
    left_out: Mapping[float, str] = field(default_factory=dict)
    """Batch size → why it is not in the fit."""

    @property
    def critical(self) -> float | None:
        """The estimate if it lies among the sizes that were tried; None otherwise, as a fit does not extrapolate."""
        return self.estimate if self.points[0].batch <= self.estimate <= self.points[-1].batch else None

    def steps(self, batch: Floats) -> Floats:
        return self.a + self.b / batch

    def linear(self, batch: Floats) -> Floats:
        """Steps by linear scaling from the limit of small batches."""
        return self.b / batch

    @property
    def text(self) -> str:
        """The result as a sentence."""
        low, high = self.interval
        smallest, largest = self.points[0].batch, self.points[-1].batch
        if self.estimate > largest:
            bound = f"; the critical batch size is at least {low:,.0f}" if low > smallest else ""
            return f"No limit seen up to a batch size of {largest:,.0f}: steps still fall nearly in proportion{bound}."
        if self.estimate < smallest:
            return (
                f"The critical batch size is below {smallest:,.0f}, the smallest that was tried; larger ones save "
                "little."
            )
        upper = f"to {high:,.0f}" if math.isfinite(high) else "upwards, so linear scaling is not ruled out"
        return f"The critical batch size is {self.estimate:,.0f} (95 % interval: {low:,.0f} {upper})."


def critical_batch(
    trials: Sequence[Trial],
    objective: str,
    batch_key: str = "plan.batch_size",
    target: float | None = None,
    seed: int = 0,
) -> CriticalBatchFit | NoFit:
    """Fit the critical batch size of a search.

    Args:
        trials: only finished and stopped trials with at least two rows are used.
        target: value of the objective. By default the best value that every batch size reaches with all seeds, each
            with its best other values; the worst batch size then just reaches it.
    """
    curves = _curves(trials, objective, batch_key)
    if not curves:
        return NoFit(f"no trial that ended has two rows with {objective} and a value of {batch_key}")
    goal = _common_target(curves) if target is None else sign(objective) * target
    points, left_out = [], {}
    for batch, choices in sorted(curves.items()):
        point = _best_choice(batch, choices, goal, batch_key)
        if isinstance(point, BatchSizePoint):
            points.append(point)
        else:
            left_out[batch] = point
    target = sign(objective) * goal
    if len(points) < _MIN_SIZES:
        reasons = "".join(f"; {batch:,.0f} {reason}" for batch, reason in left_out.items())
        return NoFit(
            f"{len(points)} batch sizes tell when they reach {objective} = {target:.4g}, and a fit of a + b / B needs "
            f"{_MIN_SIZES}{reasons}"
        )
    # [n] each, with one entry for each size and seed.
    sizes = np.array([point.batch for point in points for _ in point.steps])
    steps = np.array([steps for point in points for steps in point.steps])
    a, b = fit(sizes, steps)
    estimate = (EXCESS - 1) * b / a if a else math.inf
    interval = _interval(sizes, steps, (a, b), seed)
    return CriticalBatchFit(objective, target, tuple(points), a, b, estimate, interval, left_out)


def steps_to(curve: Curve, target: float) -> float | None:
    """Steps until a curve first reaches a target, interpolated linearly between rows; None if it does not reach it.

    If the first row has reached it already, its step is returned.
    """
    previous = None
    for step, value in curve:
        if value >= target:
            if previous is None:
                return float(step)
            return previous[0] + (step - previous[0]) * (target - previous[1]) / (value - previous[1])
        previous = step, value
    return None


def fit(sizes: Floats, steps: Floats) -> tuple[float, float]:
    """Fit steps = a + b / size with a ≥ 0 and b > 0 by least squares of log steps.

    Errors are relative, since steps span orders of magnitude. For a given b / a the best level is the mean residual, so
    this is a one-dimensional search over b / a, from a thousandth of the smallest size to a thousand times the largest
    one, and infinity (a = 0).

    Args:
        sizes: [n]
        steps: [n]
    """
    logs = np.log(steps)
    ratios = _candidate_ratios(sizes)
    nearest = int(np.argmin(_squared_errors(logs[None], sizes, ratios)[0]))
    ratio = ratios[nearest]
    if math.isfinite(ratio):
        low, high = (np.log(ratios[index]) for index in (max(nearest - 1, 0), min(nearest + 1, _NUM_RATIOS - 1)))
        refined = optimize.minimize_scalar(
            lambda x: _squared_errors(logs[None], sizes, np.exp([x]))[0, 0], bounds=(low, high), method="bounded",
            options={"xatol": 1e-9},
        )  # fmt: skip
        ratio = float(np.exp(refined.x))
    # steps = b · (1 / size + a / b), so log b is the mean residual of log steps.
    b = float(np.exp((logs - np.log(1 / sizes + 1 / ratio)).mean()))
    return b / ratio, b


def _candidate_ratios(sizes: Floats) -> Floats:
    return np.append(np.geomspace(sizes.min() / 1000, sizes.max() * 1000, _NUM_RATIOS), np.inf)


def _squared_errors(logs: Floats, sizes: Floats, ratios: Floats) -> Floats:
    """Mean squared residuals for each row of log steps [r, n] and each ratio [t], up to a constant of the row."""
    shapes = np.log(1 / sizes[:, None] + 1 / ratios)  # [n, t]
    shapes = shapes - shapes.mean(0)
    # |y - s|² = |s|² - 2 y·s + |y|² with y and s centred; |y|² is the same for all ratios.
    squares: Floats = (shapes**2).mean(0) - 2 * (logs - logs.mean(1, keepdims=True)) @ shapes / len(sizes)
    return squares


def _interval(sizes: Floats, steps: Floats, fitted: tuple[float, float], seed: int) -> tuple[float, float]:
    """Percentile interval of a bootstrap over the residuals of log steps.

    Residuals are drawn from all sizes together, as the two or three seeds of one size say too little about its spread.
    They are widened because the fit took two degrees of freedom and because there are few of them, as Student's t
    widens a normal interval. The choice of the best learning rate is covered only as far as it disturbs the fit.
    """
    free = len(sizes) - 2
    expected = np.log(fitted[0] + fitted[1] / sizes)
    widening = math.sqrt(len(sizes) / free) * stats.t.ppf((1 + LEVEL) / 2, free) / stats.norm.ppf((1 + LEVEL) / 2)
    residuals = widening * (np.log(steps) - expected)
    resampled = np.random.default_rng(seed).choice(residuals, (_NUM_RESAMPLES, len(sizes)))  # [r, n]
    ratios = _candidate_ratios(sizes)
    best = ratios[np.argmin(_squared_errors(expected + resampled, sizes, ratios), axis=1)]
    # Nearest values, as a mean with infinity would be infinite.
    low, high = np.quantile(best, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return (EXCESS - 1) * float(low), (EXCESS - 1) * float(high)


def _curves(trials: Sequence[Trial], objective: str, batch_key: str) -> dict[float, Choices]:
    """The curves of all usable trials, by batch size and other values."""
    curves: dict[float, Choices] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        values = {step: row.get(objective, math.nan) for step, row in sorted(trial.rows.items())}
        curve = [(step, sign(objective) * value) for step, value in values.items() if math.isfinite(value)]
        batch = trial.values.get(batch_key)
        if trial.status in ("finished", "stopped") and len(curve) > 1 and batch is not None:
            curves[float(batch)][trial.group].append((trial, curve))
    return curves


def _common_target(curves: Mapping[float, Choices]) -> float:
    # The worst batch size, by its best choice, by that choice's worst seed, by the best row of its curve.
    return min(
        max(min(max(value for _, value in curve) for _, curve in seeds) for seeds in choices.values())
        for choices in curves.values()
    )


def _best_choice(batch: float, choices: Choices, goal: float, batch_key: str) -> BatchSizePoint | str:
    """The choice with the fewest steps to the goal (mean over seeds, which must all reach it), or why there is none."""
    candidates: list[tuple[float, BatchSizePoint, bool]] = []  # mean steps, point, whether the first row reaches it
    for seeds in choices.values():
        steps = [steps_to(curve, goal) for _, curve in seeds]
        reached = tuple(step for step in steps if step is not None)
        if len(reached) == len(steps):
            values = {key: value for key, value in seeds[0][0].values.items() if key not in (SEED, batch_key)}
            at_first_row = any(curve[0][1] >= goal for _, curve in seeds)
            candidates.append((sum(reached) / len(reached), BatchSizePoint(batch, values, reached), at_first_row))
    if not candidates:
        return "does not reach the target"
    _, point, at_first_row = min(candidates, key=lambda candidate: candidate[0])
    return "reaches the target before its first validation" if at_first_row else point
