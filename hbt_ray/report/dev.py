"""The figures of validation: the dev measures of a run's checkpoints, beside its training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbt_ray.report.chart import EXTENT, Chart, Line, Scale, chart, dots, line
from hbt_ray.report.curve import Floats

Rows = Sequence[Mapping[str, Any]]
# In the order of drawing: the pool's curve, by which checkpoints are told apart, is never hidden.
_SETTINGS = {
    "mono_AP": ("mono", "monolingual"),
    "cross_AP": ("cross", "cross-lingual"),
    "AP": ("plain", "multilingual"),
}


def precision_chart(rows: Rows, best: int | None, steps: Scale) -> Chart | None:
    """AP in the three settings by step, with the best checkpoint marked; None where there is no row."""
    series = {name: _series(rows, name) for name in _SETTINGS}
    series = {name: values for name, values in series.items() if len(values[0])}
    if not series:
        return None
    return _chart(
        "Dev AP",
        series,
        best,
        (steps, Scale.over(0, max(float(values.max()) for _, values in series.values()))),
        note="average precision of the checkpoints on the dev store; the figures above are the last",
    )


def pool_loss_chart(rows: Rows, best: int | None, steps: Scale) -> Chart | None:
    """The loss over the fixed pool, by step."""
    xs, losses = _series(rows, "pool_loss")
    if not len(xs):
        return None
    scales = (steps, Scale.over(float(losses.min()), float(losses.max())))
    return _chart("Dev loss over the fixed pool", {"pool_loss": (xs, losses)}, best, scales)


def _chart(
    title: str, series: dict[str, tuple[Floats, Floats]], best: int | None, scales: tuple[Scale, Scale], note: str = ""
) -> Chart:
    lines: list[Line] = []
    legend: list[tuple[str, str]] = []
    for name, (xs, ys) in series.items():
        style, words = _SETTINGS.get(name, ("plain", "last"))
        lines += [dots(style, xs, ys, scales), line(style, xs, ys, scales)]
        legend.append((style, f"{words}: {ys[-1]:.3f}"))
    ends = "; ".join(f"{words} at the end" for _, words in legend)
    if best is not None:
        lines.insert(0, _upright(best, scales[0]))
        legend.append(("target", f"best: step {best:,}"))
        ends += f"; best at step {best:,}"
    return chart(title, f"{title} by step: {ends}.", scales, lines, legend=tuple(legend), note=note)


def _series(rows: Rows, name: str) -> tuple[Floats, Floats]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = zip(*sorted(found), strict=True) if found else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def _upright(step: int, scale: Scale) -> Line:
    return Line("target", f"M{EXTENT * float(scale.at(np.array([float(step)]))[0]):.0f} 0V{EXTENT}")
