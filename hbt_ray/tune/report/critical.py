"""The figure of a critical batch size: steps over batch sizes, as logarithms, so linear scaling is a straight line.

Markup as the report's page styles it: the SVG stretches, and its labels are text of the page around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from hbt_ray.evaluate.report.chart import EXTENT, Line, Scale, dots, line, tick_label
from hbt_ray.evaluate.report.curve import Floats
from hbt_ray.tune.critical import Critical

_MARGIN = 1.15  # Around what is drawn, as a factor.
_MAX_TICKS = 9
_BAND = "fill:var(--cross);fill-opacity:.13;stroke:none"
_POINTS = "stroke-width:7;opacity:.85"


@dataclass(frozen=True)
class LogScale(Scale):
    """A stretch of positive numbers, by their logarithms."""

    def at(self, values: Floats) -> Floats:
        share: Floats = np.log(values / self.low) / math.log(self.high / self.low)
        return share

    def marks(self) -> list[tuple[float, str]]:
        return [(round(100 * float(self.at(np.array(tick))), 2), tick_label(tick)) for tick in self.ticks]


def figure(critical: Critical) -> str:
    """A `figure` element for the report's page: well-formed XML, without scripts and without its own style sheet."""
    scales = _scales(critical)
    title = f"Steps to {critical.objective} = {critical.target:.4g}"
    return "\n".join(
        [
            '<figure class="chart wide">',
            f"<figcaption><b>{escape(title)}</b>{_legend(critical)}</figcaption>",
            '<div class="plot">',
            f'<svg viewBox="0 0 {EXTENT} {EXTENT}" preserveAspectRatio="none"'
            f' role="img" aria-label="{escape(_description(critical))}">',
            *_grid(scales[1]),
            *_band(critical, scales[0]),
            *_lines(critical, scales),
            "</svg>",
            *(_label("y", "bottom", share, text) for share, text in scales[1].marks()),
            *(_label("x", "left", share, text) for share, text in scales[0].marks()),
            "</div>",
            '<p class="axis" aria-hidden="true">batch size</p>',
            f'<p class="note">{escape(_note(critical))}</p>',
            "</figure>",
        ]
    )


def _scales(critical: Critical) -> tuple[LogScale, LogScale]:
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


def _lines(critical: Critical, scales: tuple[LogScale, LogScale]) -> list[str]:
    sizes = np.geomspace(critical.points[0].batch, critical.points[-1].batch, 100)
    pairs = np.array([(point.batch, steps) for point in critical.points for steps in point.steps])
    lines = [
        _path(line("target", sizes, critical.linear(sizes), scales)),
        _path(line("mono", sizes, critical.steps(sizes), scales)),
        _path(dots("plain", pairs[:, 0], pairs[:, 1], scales), _POINTS),
    ]
    if critical.critical is not None:
        lines.append(_path(Line("cross", f"M{_across(critical.critical, scales[0]):.0f} 0V{EXTENT}")))
    return lines


def _band(critical: Critical, scale: LogScale) -> list[str]:
    """The interval, as far as it is in the figure."""
    left, right = (_across(end, scale) for end in critical.interval)
    if left >= right:
        return []
    return [_path(Line("band", f"M{left:.0f} 0H{right:.0f}V{EXTENT}H{left:.0f}Z"), _BAND)]


def _across(batch: float, scale: LogScale) -> float:
    inside = min(max(batch, scale.low), scale.high)
    return EXTENT * float(scale.at(np.array(inside)))


def _grid(scale: LogScale) -> list[str]:
    return [_path(Line("grid", f"M0 {EXTENT * (1 - share / 100):.0f}H{EXTENT}")) for share, _ in scale.marks()]


def _path(line: Line, style: str = "") -> str:
    return f'<path class="{line.style}"' + (f' style="{style}"' if style else "") + f' d="{line.path}"/>'


def _label(axis: str, side: str, share: float, text: str) -> str:
    return f'<span class="{axis}" aria-hidden="true" style="{side}:{share}%">{text}</span>'


def _legend(critical: Critical) -> str:
    keys = [("mono", "fit"), ("target", "linear scaling")]
    if critical.critical is not None:
        keys.append(("cross", f"critical batch size {critical.critical:,.0f}, with its 95 % interval"))
    return "".join(f' <span class="key {style}">{escape(words)}</span>' for style, words in keys)


def _description(critical: Critical) -> str:
    points = "; ".join(
        f"{point.batch:,.0f}: " + ", ".join(f"{steps:,.0f}" for steps in point.steps) for point in critical.points
    )
    return f"Steps to the target by batch size: {points}. {critical.text}"


def _note(critical: Critical) -> str:
    fitted = f"steps = {round(critical.a, 1):,.9g} + {critical.b:,.0f} / batch size"
    out = "".join(f" Not in the fit: {batch:,.0f} {why}." for batch, why in critical.left_out.items())
    return f"{critical.text} The fit: {fitted}. Each point is a seed at the best values of its size.{out}"
