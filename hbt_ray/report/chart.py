"""Line charts: paths for an SVG that stretches, and labels that the page sets as text around it.

The SVG has no text of its own: it is stretched to the width of the page while strokes and letters keep their size,
so one figure serves a projector and a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hbt_ray.report.curve import Floats

EXTENT = 1000
# More points than pixels only make the file larger.
MAX_POINTS = 600


@dataclass(frozen=True)
class Scale:
    """A stretch of numbers with round ticks inside it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    as_percentage: bool = False

    @classmethod
    def over(cls, low: float, high: float, count: int = 5, widen: bool = True) -> Scale:
        """`widen` moves both ends to a tick; else they stay where the data end."""
        if high <= low:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        rough = (high - low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = [i * step for i in range(first, last + 1)]
        if widen:
            return cls(ticks[0], ticks[-1], tuple(ticks))
        return cls(low, high, tuple(t for t in ticks if low - 1e-9 * step <= t <= high + 1e-9 * step))

    def at(self, values: Floats) -> Floats:
        return (values - self.low) / (self.high - self.low)

    def marks(self) -> list[tuple[float, str]]:
        """Ticks as (per cent of the axis, label)."""
        label = percentage if self.as_percentage else tick_label
        return [(round(100 * (t - self.low) / (self.high - self.low), 2), label(t)) for t in self.ticks]


@dataclass(frozen=True)
class Line:
    style: str
    """CSS class: the kind of batch, with `raw` for dots or `target` for a dashed rule."""
    path: str


@dataclass(frozen=True)
class Chart:
    title: str
    description: str
    """What a reader who cannot see the figure should know."""
    x: tuple[tuple[float, str], ...]
    y: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """CSS class → words."""
    note: str = ""
    labels: tuple[tuple[float, float, str], ...] = ()
    """Words beside points: per cent of the axes, from the left and from below."""


def chart(title: str, description: str, scales: tuple[Scale, Scale], lines: Sequence[Line], **more: object) -> Chart:
    x, y = (tuple(scale.marks()) for scale in scales)
    return Chart(title, description, x, y, tuple(lines), **more)  # type: ignore[arg-type]  # passed on by name


def line(style: str, xs: Floats, ys: Floats, scales: tuple[Scale, Scale]) -> Line:
    keep = _thin(len(xs))
    points = _points(xs[keep], ys[keep], scales)
    return Line(style, "M" + "L".join(points))


def dots(style: str, xs: Floats, ys: Floats, scales: tuple[Scale, Scale]) -> Line:
    """Strokes of no length with round ends."""
    keep = _thin(len(xs))
    return Line(f"{style} raw", "".join(f"M{point}h0" for point in _points(xs[keep], ys[keep], scales)))


def rule(style: str, height: float, scales: tuple[Scale, Scale]) -> Line:
    level = EXTENT * (1 - float(scales[1].at(np.array([height]))[0]))
    return Line(style, f"M0 {level:.0f}H{EXTENT}")


def _thin(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Evenly spaced positions, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(np.int64))


def _points(xs: Floats, ys: Floats, scales: tuple[Scale, Scale]) -> list[str]:
    right, down = EXTENT * scales[0].at(xs), EXTENT * (1 - scales[1].at(ys))
    return [f"{x:.0f} {y:.0f}" for x, y in zip(right, down, strict=True)]


def tick_label(value: float) -> str:
    """`0.5`, `2,000`, `2e−5`."""
    if value == 0 or abs(value) < 1e-15:
        return "0"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    return f"{round(value, 6):,.0f}" if abs(value) >= 1000 else f"{round(value, 6):g}"


def percentage(share: float) -> str:
    return f"{100 * share:.3g}%"
