"""Charts of a search: objectives by the varied setting, Pareto fronts, trials by step, critical batch size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hbt_ray.report.charts import Axis, Canvas, Chart, Row, thinned, widened
from hbt_ray.report.formatting import (
    mean_with_interval,
    objective_name,
    objective_value,
    setting_value,
    settings_text,
)
from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.tune.critical_batch import CriticalBatchFit
from hbt_ray.tune.search_state import SearchState, SeedGroup, Trial, is_number

SERIES_COLOURS = ("mono", "cross", "mixed", "plain")
FRONTS = (("mono_AP", "cross_AP"), ("AP", "RankDistance"))
"""Pairs of objectives of which one may improve at the cost of the other."""
_MAX_JOINED = 12
"""Maximum number of means that a line joins; with more it would be hard to read."""
_MAX_TICKS = 8
_LOG_RATIO = 8
"""Ratio of the largest to the smallest value below which a logarithmic axis changes little."""
_INTERVAL_REACH = 0.6
"""Limit to which intervals widen the axis, in ranges of the values, since the interval of two seeds is 12 times their
range and would flatten the rest."""

Series = list[tuple[Any, SeedGroup, SeedInterval]]
"""Points of a series: value of the varied setting, its trials, and their estimate."""


def objective_chart(groups: Sequence[SeedGroup], objective: str, varied: str) -> Chart | None:
    """Seeds as small dots, means joined by a line, intervals as bars; None if no finished trial has the objective.

    Each combination of the other settings is a series if the colours suffice.
    """
    series = _series(groups, objective, varied)
    if not series:
        return None
    estimates = [estimate for points in series.values() for *_, estimate in points]
    x = value_axis([value for points in series.values() for value, *_ in points], varied)
    low, high = _range(estimates)
    canvas = Canvas(x, Axis("", (low, high)), dict(zip(series, SERIES_COLOURS, strict=False)))
    intervals, lines, seeds, means = [], [], [], []
    for i, (name, points) in enumerate(series.items()):
        shift = 6 * (i - (len(series) - 1) / 2)  # pixels between series, so that none hides the interval of another
        rows, bars, dots = [], [], []
        for value, group, estimate in points:
            place = setting_value(value) if x.scale == "names" else float(value)
            several = len(estimate.values) > 1
            count = f"mean of {len(estimate.values)} seeds" if several else "one seed"
            mean = f"{objective_name(objective)} {mean_with_interval(objective, estimate)}"
            rows.append(Row(place, estimate.mean, f"{settings_text(group.values)}: {mean}, {count}", name))
            if estimate.interval:
                ends = max(estimate.interval[0], low), min(estimate.interval[1], high)
                bars.append(Row(place, estimate.mean, series=name, low=ends[0], high=ends[1]))
            for trial in group.trials:
                measure = trial.last(objective)
                if several and measure is not None and math.isfinite(measure):
                    dots.append(Row(place, measure, _tooltip(trial, trial.step, objective, measure), name))
        intervals.append(canvas.intervals(bars, xOffset=shift))
        # Several means at one value, or values without an order, cannot be joined.
        unique = len({row.x for row in rows}) == len(rows)
        if unique and 1 < len(rows) <= _MAX_JOINED and x.scale != "names":
            lines.append(canvas.line(rows, width=1.25, opacity=0.45, xOffset=shift))
        # Seven pixels to the left of the mean, which would hide them.
        seeds.append(canvas.points(dots, size=25, opacity=0.5, xOffset=shift - 7))
        means.append(canvas.points(rows, size=81, xOffset=shift))
    described = [
        f"{settings_text(group.values)}: {mean_with_interval(objective, estimate)}"
        for points in series.values()
        for _, group, estimate in points
    ]
    clipped = any(end < low or end > high for estimate in estimates for end in estimate.interval or ())
    return Chart(
        _title(objective),
        f"{objective_name(objective)} of finished trials. {'; '.join(described)}.",
        (*intervals, *lines, *seeds, *means),
        note="intervals that end at the edge go on beyond it" if clipped else "",
    )


def front_chart(state: SearchState, x: str, y: str, varied: str) -> Chart | None:
    """Every finished trial by two objectives, with the Pareto front marked; None without a trial that has both."""
    best = {trial.trial_id for trial in state.front((x, y))}
    others: list[Row] = []
    front: list[tuple[Row, str]] = []
    for trial in state.finished:
        right, up = trial.last(x), trial.last(y)
        if right is None or up is None or not math.isfinite(right + up):
            continue
        values = f"{objective_name(x)} {objective_value(x, right)}, {objective_name(y)} {objective_value(y, up)}"
        tooltip = f"{settings_text(trial.values)}: {values}"
        if trial.trial_id in best:
            front.append((Row(right, up, tooltip, "front"), setting_value(trial.values.get(varied))))
        else:
            others.append(Row(right, up, tooltip, "other trials"))
    if not front:
        return None
    front.sort(key=lambda pair: (pair[0].x, pair[0].y))
    rows = [row for row, _ in front]
    xs, ys = zip(*((float(row.x), row.y) for row in (*rows, *others)), strict=True)
    canvas = Canvas(
        Axis(objective_name(x), widened(min(xs), max(xs))),
        Axis("", widened(min(ys), max(ys))),
        {"front": "cross", "other trials": "plain"},
    )
    labels = _without_overlaps([replace(row, tooltip=label) for row, label in front], canvas)
    return Chart(
        f"{_title(y)} by {objective_name(x)}",
        f"{len(xs)} trials by {objective_name(x)} and {objective_name(y)}. "
        f"On the front: {'; '.join(row.tooltip for row in rows)}.",
        (
            # A step, not a slope: values between two trials of the front were not reached by any trial.
            canvas.line(rows, interpolate="step-before"),
            canvas.points(others, size=36, opacity=0.5),
            canvas.points(rows, size=81),
            canvas.labels(labels, color="var(--ink)"),
        ),
    )


def curve_chart(state: SearchState, objective: str) -> Chart | None:
    """The objective of every trial by step. The best trial stands out, unfinished trials are faint."""
    curves = [
        (trial, points)
        for trial in state.trials
        if (
            points := [
                (step, row[objective])
                for step, row in sorted(trial.rows.items())
                if math.isfinite(row.get(objective, math.nan))
            ]
        )
    ]
    if not curves:
        return None
    best = state.best(objective)
    best_name = f"best: {settings_text(best.values)}" if best else ""
    styles = {best_name: ("mono", 2.5), "finished": ("plain", 1.5), "not finished": ("bar", 1.25)}
    rows: dict[str, list[Row]] = {name: [] for name in styles}
    for trial, points in curves:
        name = best_name if best and trial is best else "finished" if trial.status == "finished" else "not finished"
        # About 4,000 points for all trials together, at least ten each.
        for step, value in (points[i] for i in thinned(len(points), max(10, 4000 // len(curves)))):
            tooltip = _tooltip(trial, step, objective, value)
            rows[name].append(Row(step, value, tooltip, name, group=trial.trial_id))
    shown = [name for name in styles if rows[name]]
    xs, ys = ([point[i] for _, points in curves for point in points] for i in (0, 1))
    axes = Axis("step", (0, max(xs) or 1)), Axis("", widened(min(ys), max(ys)))
    canvas = Canvas(*axes, {name: styles[name][0] for name in shown})
    layers = []
    for name in reversed(shown):  # The best trial is drawn last, above the others.
        layers.append(canvas.line(rows[name], width=styles[name][1], opacity=0.9 if name == best_name else 0.6))
        layers.append(canvas.points(rows[name], size=25 if name == best_name else 16))
    ends = f"; the best ends at {objective_value(objective, best.last(objective))}" if best else ""
    description = f"{objective_name(objective)} by step of {len(curves)} trials{ends}."
    return Chart(_title(objective), description, tuple(layers))


def critical_chart(critical: CriticalBatchFit) -> Chart:
    """Steps to the target by batch size: seeds, the fit, linear scaling, and the critical size with its interval.

    Both axes are logarithmic, so linear scaling is a straight line.
    """
    batches = [point.batch for point in critical.points]
    sizes = np.geomspace(batches[0], batches[-1], 100)
    first, last = sizes[0] / 1.15, sizes[-1] * 1.15  # on a logarithmic axis a margin is a factor
    seeds = [
        Row(
            point.batch,
            steps,
            f"batch size {point.batch:,.0f}, {settings_text(point.values)}: {steps:,.0f} steps",
            "seeds",
        )
        for point in critical.points
        for steps in point.steps
    ]
    lines = {
        name: [Row(*pair, series=name) for pair in zip(sizes.tolist(), steps.tolist(), strict=True)]
        for name, steps in (("linear scaling", critical.linear(sizes)), ("fit", critical.steps(sizes)))
    }
    heights = [row.y for row in (*seeds, *lines["fit"], *lines["linear scaling"])]
    x = Axis("batch size", (first, last), "log", ticks=tuple(batches[:: math.ceil(len(batches) / _MAX_TICKS)]))
    y = Axis("", (min(heights) / 1.15, max(heights) * 1.15), "log")
    limit = ""
    if critical.critical is not None:
        limit = f"critical batch size {critical.critical:,.0f}, with its 95 % interval"
    colours = {"fit": "mono", "linear scaling": "muted", "seeds": "plain"} | ({limit: "cross"} if limit else {})
    canvas = Canvas(x, y, colours)
    # The upper end may be infinite.
    low, high = (min(max(end, first), last) for end in critical.interval)
    layers = (
        *([canvas.band(low, high, "cross")] if low < high else []),
        canvas.line(lines["linear scaling"], strokeDash=[5, 5]),
        canvas.line(lines["fit"]),
        *([canvas.rule(limit, x=critical.critical)] if limit else []),
        canvas.points(seeds, size=81),
    )
    measured = "; ".join(
        f"{point.batch:,.0f}: " + ", ".join(f"{steps:,.0f}" for steps in point.steps) for point in critical.points
    )
    formula = f"steps = {round(critical.a, 1):,.9g} + {critical.b:,.0f} / batch size"
    excluded = "".join(f" Not in the fit: {batch:,.0f} {reason}." for batch, reason in critical.left_out.items())
    return Chart(
        f"Steps to {objective_name(critical.objective)} {objective_value(critical.objective, critical.target)}",
        f"Steps to the target by batch size: {measured}. {critical.text}",
        layers,
        f"{formula}. Each point is a seed at the best values of its size.{excluded}",
    )


def value_axis(values: Sequence[Any], title: str) -> Axis:
    """The axis of a varied setting: linear or logarithmic for numbers, else with one place per name."""
    if not all(map(is_number, values)):
        return Axis(title, scale="names", names=tuple(dict.fromkeys(map(setting_value, values))))
    numbers = sorted({float(value) for value in values})
    ticks = tuple(numbers) if len(numbers) <= _MAX_TICKS else ()
    low, middle, high = numbers[0], statistics.median(numbers), numbers[-1]
    if low > 0 and high / low >= _LOG_RATIO:
        # Logarithmic if the median lies nearer to the geometric than to the arithmetic middle of the range.
        by_factor, by_difference = math.log(middle / low) / math.log(high / low), (middle - low) / (high - low)
        if abs(by_factor - 0.5) < abs(by_difference - 0.5):
            margin = (high / low) ** 0.05
            return Axis(title, (low / margin, high * margin), "log", ticks)
    return Axis(title, widened(low, high), "linear", ticks)


def _title(objective: str) -> str:
    name = objective_name(objective)
    return name[0].upper() + name[1:]


def _series(groups: Sequence[SeedGroup], objective: str, varied: str) -> dict[str, Series]:
    """Text of the other settings → points; one series of all points if there are more series than colours."""
    series: dict[str, Series] = {}
    keys = dict.fromkeys(key for group in groups for key in group.values if key != varied)
    for group in groups:
        if estimate := group.estimate(objective):
            others = {key: group.values.get(key) for key in keys}
            series.setdefault(settings_text(others), []).append((group.values.get(varied), group, estimate))
    if 1 < len(series) <= len(SERIES_COLOURS):
        return series
    points = [point for points in series.values() for point in points]
    return {"": points} if points else {}


def _range(estimates: Sequence[SeedInterval]) -> tuple[float, float]:
    """Domain of the vertical axis: all values, and the intervals up to `_INTERVAL_REACH`."""
    values = [value for estimate in estimates for value in estimate.values]
    low, high = widened(min(values), max(values))
    reach = _INTERVAL_REACH * (max(values) - min(values))
    ends = [end for estimate in estimates for end in estimate.interval or ()]
    return max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)


def _tooltip(trial: Trial, step: float, objective: str, value: float) -> str:
    measure = f"{objective_name(objective)} {objective_value(objective, value)}"
    return f"{settings_text(trial.values)}, step {step:,.0f}: {measure}"


def _without_overlaps(rows: Sequence[Row], canvas: Canvas) -> list[Row]:
    """The rows whose labels do not overlap with the label of an earlier row that is kept."""
    # A label takes about 15 % of the width and 9 % of the height of a chart.
    kept: list[Row] = []
    width, height = (np.ptp(axis.domain or (0, 1)) for axis in (canvas.x, canvas.y))
    for row in rows:
        if all(
            abs(float(row.x) - float(other.x)) > 0.15 * width or abs(row.y - other.y) > 0.09 * height for other in kept
        ):
            kept.append(row)
    return kept
