"""The critical batch size: up to where larger batches still save nearly as many steps as they cost examples.

How Does Critical Batch Size Scale in Pre-training? (Zhang et al., ICLR 2025, 2410.21676): train at several batch sizes
until a fixed value is reached, take the best learning rate of each size, and fit steps(B) = a + b / B to them. Linear
scaling promises a reference size's steps times reference / B; the critical size is where 1.2 times that is needed.
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

from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.space import SEED
from hbt_ray.tune.state import Trial

EXCESS = 1.2
"""Times the steps of linear scaling that are still accepted."""
LEVEL = 0.95
_MIN_SIZES = 3
_RESAMPLES = 2000
_TURNS = 1001  # Candidates for b / a, 2 % apart.

Floats = NDArray[np.float64]
Curve = list[tuple[int, float]]
"""Steps, ascending, and the objective; higher is better."""
Choices = dict[str, list[tuple[Trial, Curve]]]
"""Values other than the batch size → their seeds."""


@dataclass(frozen=True)
class BatchSizePoint:
    """A batch size at its best values."""

    batch: float
    values: Mapping[str, Any]
    """Of the other keys, such as the learning rate."""
    steps: tuple[float, ...]
    """To the target, one for each seed."""


@dataclass(frozen=True)
class NoFit:
    """Why there is no fit."""

    reason: str


@dataclass(frozen=True)
class CriticalBatchFit:
    """The fit, and what follows from it."""

    objective: str
    target: float
    points: tuple[BatchSizePoint, ...]
    """Ascending by batch size."""
    a: float
    """Steps that no batch size saves."""
    b: float
    """Examples that small batches need: their steps are b / B."""
    estimate: float
    """Batch size at which `EXCESS` times the steps of linear scaling are needed; infinite where a = 0."""
    interval: tuple[float, float]
    """Of the estimate, 95 %; the upper end is infinite where the steps agree with linear scaling."""
    reference: float = 0
    """Batch size whose steps linear scaling starts from; 0 is the limit of small batches."""
    left_out: Mapping[float, str] = field(default_factory=dict)
    """Batch size → why it is not in the fit."""

    @property
    def critical(self) -> float | None:
        """The estimate, where it lies among the sizes tried; beyond them a fit is a guess."""
        return self.estimate if self.points[0].batch <= self.estimate <= self.points[-1].batch else None

    def steps(self, batch: Floats) -> Floats:
        """By the fit."""
        return self.a + self.b / batch

    def linear(self, batch: Floats) -> Floats:
        """By linear scaling from the reference."""
        return (self.a * self.reference + self.b) / batch

    @property
    def text(self) -> str:
        """A sentence."""
        low, high = self.interval
        first, last = self.points[0].batch, self.points[-1].batch
        if self.estimate > last:
            bound = f"; the critical batch size is at least {low:,.0f}" if low > first else ""
            return f"No limit seen up to a batch size of {last:,.0f}: steps still fall nearly in proportion{bound}."
        if self.estimate < first:
            return (
                f"The critical batch size is below {first:,.0f}, the smallest that was tried; larger ones save little."
            )
        upper = f"to {high:,.0f}" if math.isfinite(high) else "upwards, so linear scaling is not ruled out"
        return f"The critical batch size is {self.estimate:,.0f} (95 % interval: {low:,.0f} {upper})."


def critical_batch(
    trials: Sequence[Trial],
    objective: str,
    batch_key: str = "plan.batch_size",
    target: float | None = None,
    reference: float = 0,
    seed: int = 0,
) -> CriticalBatchFit | NoFit:
    """The critical batch size of a search.

    Args:
        trials: those that ended count, with two rows or more; the others say nothing of when a target is reached.
        target: value of the objective; default: the best one that all batch sizes reach, each with all seeds at one
            choice of its other values. The size that does worst then reaches it just so.
        reference: batch size whose steps linear scaling starts from. 0, the limit of small batches, does not depend on
            the sizes that were tried; the paper has 256, which moves the estimate up by 1.2 × 256.
        seed: of the interval's resampling.

    Returns:
        The fit. Where fewer than three sizes reach the target, the reason.
    """
    curves = _curves(trials, objective, batch_key)
    if not curves:
        return NoFit(f"no trial that ended has two rows with {objective} and a value of {batch_key}")
    sign = -1 if objective in LOWER_IS_BETTER else 1
    goal = _shared(curves) if target is None else sign * target
    points, left_out = [], {}
    for batch, choices in sorted(curves.items()):
        point = _best(batch, choices, goal, batch_key)
        if isinstance(point, BatchSizePoint):
            points.append(point)
        else:
            left_out[batch] = point
    if len(points) < _MIN_SIZES:
        return NoFit(_too_few(points, left_out, objective, sign * goal))
    sizes = np.array([point.batch for point in points for _ in point.steps])
    steps = np.array([steps for point in points for steps in point.steps])
    a, b = fit(sizes, steps)
    interval = _interval(sizes, steps, (a, b), reference, seed)
    estimate = _critical(b / a if a else math.inf, reference)
    return CriticalBatchFit(objective, sign * goal, tuple(points), a, b, estimate, interval, reference, left_out)


def steps_to(curve: Curve, target: float) -> float | None:
    """When a curve reaches a target for the first time: between two rows by a straight line; None where it does not.

    A curve that begins at the target or above it tells no more than the step of its first row.
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
    """The a ≥ 0 and b > 0 of steps = a + b / size with the least squares of log steps.

    Relative errors, since steps span orders of magnitude. Under a given b / a the level is the mean residual, so this
    is a search along one line, among values of b / a from a thousandth of the smallest to a thousand times the largest
    size, and infinity: a = 0.

    Args:
        sizes: [n]
        steps: [n]
    """
    logs = np.log(steps)
    turns = _turns(sizes)
    nearest = int(np.argmin(_errors(logs[None], sizes, turns)[0]))
    turn = turns[nearest]
    if math.isfinite(turn):
        low, high = (np.log(turns[place]) for place in (max(nearest - 1, 0), min(nearest + 1, _TURNS - 1)))
        found = optimize.minimize_scalar(
            lambda x: _errors(logs[None], sizes, np.exp([x]))[0, 0], bounds=(low, high), method="bounded",
            options={"xatol": 1e-9},
        )  # fmt: skip
        turn = float(np.exp(found.x))
    b = float(np.exp((logs - np.log(1 / sizes + 1 / turn)).mean()))
    return b / turn, b


def _turns(sizes: Floats) -> Floats:
    """Candidates for b / a: the size at which steps are twice a."""
    return np.append(np.geomspace(sizes.min() / 1000, sizes.max() * 1000, _TURNS), np.inf)


def _errors(logs: Floats, sizes: Floats, turns: Floats) -> Floats:
    """Mean squares of what is left of log steps [r, n] under each candidate [t], up to what no candidate changes."""
    shapes = np.log(1 / sizes[:, None] + 1 / turns)
    shapes = shapes - shapes.mean(0)
    squares: Floats = (shapes**2).mean(0) - 2 * (logs - logs.mean(1, keepdims=True)) @ shapes / len(sizes)
    return squares


def _interval(
    sizes: Floats, steps: Floats, fitted: tuple[float, float], reference: float, seed: int
) -> tuple[float, float]:
    """Bootstrap over residuals of log steps, percentiles.

    Residuals are drawn from all sizes together: two or three seeds of one size would say too little of its spread.
    Two parameters took part of the spread, and few residuals do not know it well: they are widened as Student's t
    widens a normal interval. What the choice among few learning rates adds is in it as far as it disturbs the fit.
    """
    free = len(sizes) - 2
    expected = np.log(fitted[0] + fitted[1] / sizes)
    wide = math.sqrt(len(sizes) / free) * stats.t.ppf((1 + LEVEL) / 2, free) / stats.norm.ppf((1 + LEVEL) / 2)
    residuals = wide * (np.log(steps) - expected)
    drawn = np.random.default_rng(seed).choice(residuals, (_RESAMPLES, len(sizes)))
    turns = _turns(sizes)
    found = turns[np.argmin(_errors(expected + drawn, sizes, turns), axis=1)]
    ends = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")  # No mean with infinity.
    return _critical(float(ends[0]), reference), _critical(float(ends[1]), reference)


def _critical(turn: float, reference: float) -> float:
    """The B of a + b / B = OVER (a reference + b) / B, from b / a."""
    return (EXCESS - 1) * turn + EXCESS * reference


def _curves(trials: Sequence[Trial], objective: str, batch_key: str) -> dict[float, Choices]:
    """By batch size."""
    sign = -1 if objective in LOWER_IS_BETTER else 1
    curves: dict[float, Choices] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        values = {step: row.get(objective, math.nan) for step, row in sorted(trial.rows.items())}
        curve = [(step, sign * value) for step, value in values.items() if math.isfinite(value)]
        batch = trial.values.get(batch_key)
        if trial.status in ("finished", "stopped") and len(curve) > 1 and batch is not None:
            curves[float(batch)][repr(trial.group)].append((trial, curve))
    return curves


def _shared(curves: Mapping[float, Choices]) -> float:
    """The best value that all batch sizes reach."""
    return min(
        max(min(max(value for _, value in curve) for _, curve in seeds) for seeds in choices.values())
        for choices in curves.values()
    )


def _best(batch: float, choices: Choices, goal: float, batch_key: str) -> BatchSizePoint | str:
    """The choice with the fewest steps, as a mean of seeds that all reach the goal; or why there is none."""
    reached: list[tuple[float, BatchSizePoint, bool]] = []
    for seeds in choices.values():
        steps = [steps_to(curve, goal) for _, curve in seeds]
        known = tuple(step for step in steps if step is not None)
        if len(known) == len(steps):
            values = {key: value for key, value in seeds[0][0].values.items() if key not in (SEED, batch_key)}
            at_once = any(curve[0][1] >= goal for _, curve in seeds)
            reached.append((sum(known) / len(known), BatchSizePoint(batch, values, known), at_once))
    if not reached:
        return "does not reach the target"
    _, point, at_once = min(reached, key=lambda one: one[0])
    return "reaches the target before its first validation" if at_once else point


def _too_few(points: list[BatchSizePoint], left_out: Mapping[float, str], objective: str, target: float) -> str:
    told = "".join(f"; {batch:,.0f} {why}" for batch, why in left_out.items())
    return (
        f"{len(points)} batch sizes tell when they reach {objective} = {target:.4g}, and a fit of a + b / B needs "
        f"{_MIN_SIZES}{told}"
    )
