"""Charts of one training run: loss, dev measures, mixture of batches and throughput by step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_ray.report.charts import Axis, Canvas, Chart, Floats, Row, thinned, widened
from hbt_ray.report.formatting import duration

KINDS = {"mono": "monolingual", "cross": "cross-lingual", "mixed": "mixed", "": "all batches"}
"""Kind of batch → its name in legends. Its colour has the name of the kind, or `plain` for all batches."""
DEV_MEASURES = {
    "mono_AP": ("monolingual", "mono"),
    "cross_AP": ("cross-lingual", "cross"),
    "AP": ("multilingual", "plain"),
}
"""Measure of a checkpoint → its name in legends and the name of its colour."""
NUMBERS = ("loss", "pairs_per_second", "stall_seconds")
CLIP_QUANTILE = 0.995
"""Quantile of the values at which axes of loss and throughput end, so that one spike does not flatten the curve."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingRecord:
    """The metrics of a run, one entry per step in the order of steps. A missing number is NaN."""

    steps: NDArray[np.int64]
    kinds: NDArray[np.str_]
    numbers: Mapping[str, Floats]

    @classmethod
    def read(cls, rows: Rows) -> TrainingRecord:
        """The record of the rows of a metrics file.

        A resume repeats steps; the last row of a step counts, since it led to the final weights.
        """
        last = {int(row["step"]): row for row in rows if row.get("step") is not None}
        ordered = [last[step] for step in sorted(last)]
        return cls(
            steps=np.array(sorted(last), dtype=np.int64),
            kinds=np.array([str(row.get("kind") or "") for row in ordered], dtype=np.str_),
            numbers={name: np.array([_number(row.get(name)) for row in ordered]) for name in NUMBERS},
        )

    @cached_property
    def num_steps(self) -> int:
        """Number of steps of the run: the last step, plus one if steps are counted from 0."""
        return int(self.steps[-1]) + (int(self.steps[0]) == 0) if len(self.steps) else 0

    def series(self, name: str, kind: str | None = None) -> tuple[Floats, Floats]:
        """Steps and finite values of a number, for one kind of batch or for all."""
        keep = np.isfinite(self.numbers[name])
        if kind is not None:
            keep &= self.kinds == kind
        return self.steps[keep].astype(np.float64), self.numbers[name][keep]

    @property
    def mono_share(self) -> tuple[Floats, Floats]:
        """Steps, and the share of monolingual batches among all batches up to each step."""
        known = np.isin(self.kinds, [kind for kind in KINDS if kind])
        mono = np.cumsum(self.kinds[known] == "mono")
        return self.steps[known].astype(np.float64), mono / np.arange(1, len(mono) + 1)


@dataclass(frozen=True)
class TrainingSection:
    """The section of an evaluation page on the training of its run."""

    summary: str
    charts: tuple[Chart, ...]


def training_section(
    record: TrainingRecord, policy: str, dev: Rows = (), best_step: int | None = None
) -> TrainingSection | None:
    """Summary and charts of all numbers in the record; None if it has no step.

    Args:
        policy: the plan's name of the mixture of batches, such as `hybrid(0.5)`.
        dev: measures of checkpoints on the dev set, one row per checkpoint.
        best_step: step of the best checkpoint.
    """
    if not len(record.steps):
        return None
    first, last = float(record.steps[0]), float(record.num_steps)
    # All charts share one axis, so that a step lies at the same place in each.
    steps = Axis("step", (first, last) if first < last else widened(first, last))
    charts = (
        _loss_chart(record, steps),
        dev_chart(dev, best_step, steps),
        _mixture_chart(record, target_share(policy), steps),
        dev_loss_chart(dev, best_step, steps),
        _throughput_chart(record, steps),
    )
    return TrainingSection(_summary(record, policy), tuple(chart for chart in charts if chart))


def target_share(policy: str) -> float | None:
    """The target share of monolingual batches of a policy: 0.5 for `hybrid(0.5)`, None for a schedule."""
    match = re.fullmatch(r"hybrid\(\s*([0-9]*\.?[0-9]+)\s*\)", policy)
    return float(match[1]) if match else {"mono": 1.0, "cross": 0.0}.get(policy)


def smooth(values: Floats, width: int) -> Floats:
    """Centred running mean. The window shrinks at both ends, so that no end is pulled towards zero."""
    half = width // 2
    # The sum of a window is the difference of two cumulative sums: O(n) for any width.
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: Floats = (total[stop] - total[start]) / (stop - start)
    return mean


def dev_chart(rows: Rows, best_step: int | None, steps: Axis) -> Chart | None:
    """AP on the dev set in the three settings, by step; None if no checkpoint has one."""
    points = _dev_points(rows, {measure: (name, f"{name} AP", ".3f") for measure, (name, _) in DEV_MEASURES.items()})
    if not points:
        return None
    names = dict.fromkeys(point.series for point in points)
    colours = {name: colour for name, colour in DEV_MEASURES.values() if name in names}
    last = "; ".join(f"{name} {[p.y for p in points if p.series == name][-1]:.3f}" for name in names)
    note = f"AP of the last checkpoint: {last}. Measured on the dev set; the results above are on the test tasks"
    domain = (0, max(point.y for point in points) or 1)
    return _checkpoint_chart("Dev AP", Canvas(steps, Axis("", domain), colours), points, best_step, note, is_wide=True)


def dev_loss_chart(rows: Rows, best_step: int | None, steps: Axis) -> Chart | None:
    """Loss of checkpoints over the fixed pool of the dev set, by step; None if no checkpoint has one."""
    points = _dev_points(rows, {"pool_loss": ("dev loss", "dev loss", ".4g")})
    if not points:
        return None
    losses = [point.y for point in points]
    canvas = Canvas(steps, Axis("", widened(min(losses), max(losses))), {"dev loss": "plain"})
    note = f"Loss of the last checkpoint: {losses[-1]:.3f}"
    return _checkpoint_chart("Dev loss over the fixed pool", canvas, points, best_step, note)


def _dev_points(rows: Rows, measures: Mapping[str, tuple[str, str, str]]) -> list[Row]:
    """Points of checkpoints; `measures` maps a measure to its series, its label and the format of its values."""
    ordered = sorted(rows, key=lambda row: int(row["step"]))
    return [
        Row(row["step"], row[measure], f"step {row['step']:,}: {label} {row[measure]:{digits}}", series)
        for measure, (series, label, digits) in measures.items()
        for row in ordered
        if measure in row
    ]


def _checkpoint_chart(
    title: str, canvas: Canvas, points: list[Row], best_step: int | None, note: str, is_wide: bool = False
) -> Chart:
    layers = []
    if best_step is not None:
        best = f"best checkpoint: step {best_step:,}"
        canvas = replace(canvas, colours={**canvas.colours, best: "muted"})
        layers = [canvas.rule(best, x=best_step)]  # drawn first, so that it does not hide points
    layers += [canvas.line(points), canvas.points(points, size=49)]
    return Chart(title, f"{title} by step. {note}.", tuple(layers), note, is_wide)


def _summary(record: TrainingRecord, policy: str) -> str:
    """`600 steps of hybrid(0.5) batches: 301 monolingual, 299 cross-lingual; …`"""
    counts = {kind: int((record.kinds == kind).sum()) for kind in KINDS if kind}
    kinds = ", ".join(f"{count:,} {KINDS[kind]}" for kind, count in counts.items() if count)
    text = f"{record.num_steps:,} steps" + (f" of {policy} batches" if policy else "") + (f": {kinds}" if kinds else "")
    if (recorded := len(record.steps)) < record.num_steps:
        text += f" ({recorded:,} on record)"
    _, stalls = record.series("stall_seconds")
    if len(stalls):
        total, longest = duration(float(stalls.sum())), duration(float(stalls.max()))
        text += f"; {total} spent waiting for data, at most {longest} at once"
    return text + "."


def _window(count: int) -> int:
    """Width of the running mean over `count` values: 4 % of them, odd, at least 5."""
    return max(5, count // 25) | 1  # `| 1` makes it odd, so that the window has a centre.


def _curve(steps: Floats, values: Floats, series: str) -> list[Row]:
    keep = thinned(len(steps))
    return [Row(x, y, series=series) for x, y in zip(steps[keep].tolist(), values[keep].tolist(), strict=True)]


def _dots(steps: Floats, values: Floats, series: str, label: str, top: float) -> list[Row]:
    """A point for each value up to `top`; `label` formats the tooltip from `step` and `value`."""
    visible = values <= top
    pairs = zip(steps[visible].tolist(), values[visible].tolist(), strict=True)
    return [Row(step, value, label.format(step=step, value=value), series) for step, value in pairs]


def _loss_chart(record: TrainingRecord, steps: Axis) -> Chart | None:
    _, losses = record.series("loss")
    if not len(losses):
        return None
    kinds = [kind for kind in KINDS if kind and len(record.series("loss", kind)[0])] or [""]
    series = {kind: record.series("loss", kind or None) for kind in kinds}
    window = _window(max(len(values) for _, values in series.values()))
    smoothed = {kind: smooth(values, window) for kind, (_, values) in series.items()}
    # The axis holds all of the running means, and the single batches up to the quantile.
    highest = max(float(np.quantile(losses, CLIP_QUANTILE)), *(float(values.max()) for values in smoothed.values()))
    lowest = float(losses.min())
    # The axis starts at 0 if the lowest loss is near to it; a margin below 0 is cut.
    low, top = widened(min(0.0, lowest) if lowest < 0.4 * highest else lowest, highest)
    colours = {KINDS[kind]: kind or "plain" for kind in kinds}
    canvas = Canvas(steps, Axis("", (min(0.0, lowest) if low < 0 else low, top)), colours)
    dots, curves = [], []
    for kind, (xs, ys) in series.items():
        dots += _dots(xs, ys, KINDS[kind], f"step {{step:,.0f}}, {KINDS[kind]}: loss {{value:.4g}}", top)
        curves += _curve(xs, smoothed[kind], KINDS[kind])
    ends = [f"{KINDS[kind]} from {smoothed[kind][0]:.3g} to {smoothed[kind][-1]:.3g}" for kind in kinds]
    notes = [f"dots: single batches; lines: running mean over {window:,} batches of a kind"]
    if above := int((losses > top).sum()):
        notes.append(f"{above:,} above the axis, at most {float(losses.max()):.3g}")
    if bad := len(record.steps) - len(losses):
        notes.append(f"{bad:,} step{'s' * (bad != 1)} without a finite loss")
    layers = (canvas.points(dots, opacity=0.35), canvas.line(curves))
    return Chart("Loss", f"Loss by step: {'; '.join(ends)}.", layers, "; ".join(notes), is_wide=True)


def _mixture_chart(record: TrainingRecord, target: float | None, steps: Axis) -> Chart | None:
    xs, shares = record.mono_share
    if not len(xs):
        return None
    current = f"so far: {shares[-1]:.1%}"
    goal = "" if target is None else f"target: {100 * target:.3g}%"
    axis = Axis("", (0, 1), ticks=(0, 0.25, 0.5, 0.75, 1), as_percentage=True)
    canvas = Canvas(steps, axis, {current: "mono"} | ({goal: "muted"} if goal else {}))
    goal_line = () if target is None else (canvas.rule(goal, y=target),)
    title = "Share of monolingual batches so far"
    layers = (*goal_line, canvas.line(_curve(xs, shares, current)))
    return Chart(title, f"{title}, by step: {'; '.join(canvas.colours)}.", layers)


def _throughput_chart(record: TrainingRecord, steps: Axis) -> Chart | None:
    xs, speeds = record.series("pairs_per_second")
    if not len(xs):
        return None
    median, top = float(np.median(speeds)), float(np.quantile(speeds, CLIP_QUANTILE)) * 1.02
    legend = f"median: {median:,.0f}" if median >= 10 else f"median: {median:.2g}"
    canvas = Canvas(steps, Axis("", (0, top or 1)), {legend: "plain"})
    dots = _dots(xs, speeds, legend, "step {step:,.0f}: {value:,.0f} pairs per second", top)
    # Above the axis, the line would be drawn outside the chart.
    mean = np.minimum(smooth(speeds, _window(len(speeds))), top)
    layers = (canvas.points(dots, opacity=0.35), canvas.line(_curve(xs, mean, legend)))
    return Chart("Pairs per second", f"Training pairs per second, by step; {legend}.", layers)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
