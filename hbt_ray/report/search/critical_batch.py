"""The figure of a critical batch size: steps over batch sizes, as logarithms, so linear scaling is a straight line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hbt_ray.report.chart import EXTENT, Chart, Line, Scale, dots, line, tick_label
from hbt_ray.report.curve import Floats
from hbt_ray.report.search import labels as words
from hbt_ray.tune.critical_batch import CriticalBatchFit

_MARGIN = 1.15  # Around what is drawn, as a factor.
_MAX_TICKS = 9


@dataclass(frozen=True)
class LogScale(Scale):
    """A stretch of positive numbers, by their logarithms."""

    def at(self, values: Floats) -> Floats:
        share: Floats = np.log(values / self.low) / math.log(self.high / self.low)
        return share

    def marks(self) -> list[tuple[float, str]]:
        return [(round(100 * float(self.at(np.array(tick))), 2), tick_label(tick)) for tick in self.ticks]


def critical_chart(critical: CriticalBatchFit) -> Chart:
    """Seeds, the fit and linear scaling; the critical size as a rule within its interval, as far as they are inside."""
    scales = _scales(critical)
    return Chart(
        f"Steps to {words.label(critical.objective)} {words.figure(critical.objective, critical.target)}",
        _description(critical),
        tuple(scales[0].marks()),
        tuple(scales[1].marks()),
        (*_band(critical, scales[0]), *_lines(critical, scales)),
        _legend(critical),
        _note(critical),
    )


def _scales(critical: CriticalBatchFit) -> tuple[LogScale, LogScale]:
    sizes = np.array([point.batch for point in critical.points])
    steps = np.array([steps for point in critical.points for steps in point.steps])
    drawn = np.concatenate([steps, critical.steps(sizes), critical.linear(sizes)])
    low, high = drawn.min() / _MARGIN, drawn.max() * _MARGIN
    named = sizes[:: math.ceil(len(sizes) / _MAX_TICKS)]
    return (
        LogScale(sizes[0] / _MARGIN, sizes[-1] * _MARGIN, tuple(map(float, named))),
        LogScale(float(low), float(high), round_ticks(low, high)),
    )


def round_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers: as many in a decade as there is room for."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rounds: tuple[tuple[float, ...], ...] = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,))
    choices = [[n * 10.0**d for d in decades for n in numbers if low <= n * 10.0**d <= high] for numbers in rounds]
    return tuple(next((ticks for ticks in choices if len(ticks) <= _MAX_TICKS), choices[-1]))


def _lines(critical: CriticalBatchFit, scales: tuple[LogScale, LogScale]) -> list[Line]:
    sizes = np.geomspace(critical.points[0].batch, critical.points[-1].batch, 100)
    pairs = np.array([(point.batch, steps) for point in critical.points for steps in point.steps])
    lines = [
        line("target", sizes, critical.linear(sizes), scales),
        line("mono", sizes, critical.steps(sizes), scales),
        dots("plain mean", pairs[:, 0], pairs[:, 1], scales),
    ]
    if critical.critical is not None:
        lines.append(Line("cross", f"M{_across(critical.critical, scales[0]):.0f} 0V{EXTENT}"))
    return lines


def _band(critical: CriticalBatchFit, scale: LogScale) -> list[Line]:
    left, right = (_across(end, scale) for end in critical.interval)
    return [Line("band", f"M{left:.0f} 0H{right:.0f}V{EXTENT}H{left:.0f}Z")] if left < right else []


def _across(batch: float, scale: LogScale) -> float:
    inside = min(max(batch, scale.low), scale.high)
    return EXTENT * float(scale.at(np.array(inside)))


def _legend(critical: CriticalBatchFit) -> tuple[tuple[str, str], ...]:
    keys = (("mono", "fit"), ("target", "linear scaling"))
    if critical.critical is None:
        return keys
    return (*keys, ("cross", f"critical batch size {critical.critical:,.0f}, with its 95 % interval"))


def _description(critical: CriticalBatchFit) -> str:
    points = "; ".join(
        f"{point.batch:,.0f}: " + ", ".join(f"{steps:,.0f}" for steps in point.steps) for point in critical.points
    )
    return f"Steps to the target by batch size: {points}. {critical.text}"


def _note(critical: CriticalBatchFit) -> str:
    fitted = f"steps = {round(critical.a, 1):,.9g} + {critical.b:,.0f} / batch size"
    out = "".join(f" Not in the fit: {batch:,.0f} {why}." for batch, why in critical.left_out.items())
    return f"{fitted}. Each point is a seed at the best values of its size.{out}"
