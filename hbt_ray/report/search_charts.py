"""Charts of a search: objectives by the varied setting, Pareto fronts, curves of trials, critical batch size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
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
"""Pairs of objectives that may have to be traded against each other."""
_MAX_JOINED = 12
"""Above this many values, a line through all means would be hard to read."""
_MAX_TICKS = 8
_LOG_RATIO = 8
"""Ratio of the largest to the smallest value below which a logarithmic axis makes no difference."""
_INTERVAL_REACH = 0.6
"""How far intervals may widen the axis, in ranges of the values: the interval of two seeds is 12 times their range."""

Series = list[tuple[Any, SeedGroup, SeedInterval]]
"""Value of the varied setting, the trials with it, their estimate."""


def objective_chart(groups: Sequence[SeedGroup], objective: str, varied: str) -> Chart | None:
    """Seeds as small dots, means joined by a line, intervals as bars; None if no finished trial has the objective.

    Each combination of the other settings is a series, if there are not more of them than colours.
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
        rows = [_mean_row(value, group, estimate, objective, name, x) for value, group, estimate in points]
        bars = [
            Row(row.x, row.y, series=name, low=max(estimate.interval[0], low), high=min(estimate.interval[1], high))
            for row, (*_, estimate) in zip(rows, points, strict=True)
            if estimate.interval
        ]
        unique = len({row.x for row in rows}) == len(rows)
        intervals.append(canvas.intervals(bars, xOffset=shift))
        if unique and 1 < len(rows) <= _MAX_JOINED and x.scale != "names":
            lines.append(canvas.line(rows, width=1.25, opacity=0.45, xOffset=shift))
        repeated = [
            row for point in points if len(point[2].values) > 1 for row in _seed_rows(point, objective, name, x)
        ]
        seeds.append(canvas.points(repeated, size=25, opacity=0.5, xOffset=shift - 7))
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
    places = {trial.trial_id: place for trial in state.finished if (place := _place(trial, x, y))}
    trials = {trial.trial_id: trial for trial in state.finished if trial.trial_id in places}
    front = sorted(
        (trial for trial in state.front((x, y)) if trial.trial_id in places), key=lambda t: places[t.trial_id]
    )
    if not front:
        return None

    def tooltip(trial: Trial) -> str:
        values = f"{objective_name(x)} {objective_value(x, trial.last(x))}, {objective_name(y)}"
        return f"{settings_text(trial.values)}: {values} {objective_value(y, trial.last(y))}"

    def rows(of: Sequence[Trial], series: str) -> list[Row]:
        return [Row(*places[trial.trial_id], tooltip(trial), series) for trial in of]

    best = {trial.trial_id for trial in front}
    others = [trial for trial in trials.values() if trial.trial_id not in best]
    xs, ys = zip(*places.values(), strict=True)
    canvas = Canvas(
        Axis(objective_name(x), widened(min(xs), max(xs))),
        Axis("", widened(min(ys), max(ys))),
        {"front": "cross", "other trials": "plain"},
    )
    # Between two trials of the front, no trial is better than the corner of the step.
    steps = canvas.line(rows(front, "front"), interpolate="step-before")
    labels = _spread([Row(*places[t.trial_id], setting_value(t.values.get(varied)), "front") for t in front], canvas)
    return Chart(
        f"{_title(y)} by {objective_name(x)}",
        f"{len(places)} trials by {objective_name(x)} and {objective_name(y)}. "
        f"On the front: {'; '.join(map(tooltip, front))}.",
        (
            steps,
            canvas.points(rows(others, "other trials"), size=36, opacity=0.5),
            canvas.points(rows(front, "front"), size=81),
            canvas.labels(labels, color="var(--ink)"),
        ),
    )


def curve_chart(state: SearchState, objective: str) -> Chart | None:
    """The objective of every trial by step. The best trial stands out, unfinished trials are faint."""
    curves = [(trial, points) for trial in state.trials if (points := _curve(trial, objective))]
    if not curves:
        return None
    best = state.best(objective)
    best_name = f"best: {settings_text(best.values)}" if best else ""
    styles = {"not finished": ("bar", 1.25), "finished": ("plain", 1.5), best_name: ("mono", 2.5)}

    def style(trial: Trial) -> str:
        return best_name if best and trial is best else "finished" if trial.status == "finished" else "not finished"

    xs, ys = ([point[i] for _, points in curves for point in points] for i in (0, 1))
    shown = [name for name in reversed(styles) if name in {style(trial) for trial, _ in curves}]
    axes = Axis("step", (0, max(xs) or 1)), Axis("", widened(min(ys), max(ys)))
    canvas = Canvas(*axes, {name: styles[name][0] for name in shown})
    layers = []
    for name in reversed(shown):  # The best trial is drawn last, above the others.
        rows = [
            Row(step, value, _tooltip(trial, step, objective, value), name, group=trial.trial_id)
            for trial, points in curves
            if style(trial) == name
            for step, value in (points[i] for i in thinned(len(points), max(10, 4000 // len(curves))))
        ]
        is_best = name == best_name
        layers.append(canvas.line(rows, width=styles[name][1], opacity=0.9 if is_best else 0.6))
        layers.append(canvas.points(rows, size=25 if is_best else 16))
    ends = f"; the best ends at {objective_value(objective, best.last(objective))}" if best else ""
    description = f"{objective_name(objective)} by step of {len(curves)} trials{ends}."
    return Chart(_title(objective), description, tuple(layers))


def critical_chart(critical: CriticalBatchFit) -> Chart:
    """Steps to the target by batch size: seeds, the fit, linear scaling, and the critical size with its interval.

    Both axes are logarithmic, so linear scaling is a straight line.
    """
    sizes = np.geomspace(critical.points[0].batch, critical.points[-1].batch, 100)
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
    fit, linear = critical.steps(sizes).tolist(), critical.linear(sizes).tolist()
    heights = [*fit, *linear, *(row.y for row in seeds)]
    first, last = sizes[0] / 1.15, sizes[-1] * 1.15
    batches = [point.batch for point in critical.points]
    x = Axis("batch size", (first, last), "log", ticks=tuple(batches[:: math.ceil(len(batches) / _MAX_TICKS)]))
    colours = {"fit": "mono", "linear scaling": "muted", "seeds": "plain"}
    limit = ""
    if critical.critical is not None:
        limit = f"critical batch size {critical.critical:,.0f}, with its 95 % interval"
        colours[limit] = "cross"
    canvas = Canvas(x, Axis("", (min(heights) / 1.15, max(heights) * 1.15), "log"), colours)
    low, high = (min(max(end, first), last) for end in critical.interval)
    layers = [canvas.band(low, high, "cross")] if low < high else []
    lines: tuple[tuple[str, list[float], dict[str, Any]], ...] = (
        ("linear scaling", linear, {"strokeDash": [5, 5]}),
        ("fit", fit, {}),
    )
    for name, steps, mark in lines:
        layers.append(
            canvas.line([Row(*pair, series=name) for pair in zip(sizes.tolist(), steps, strict=True)], **mark)
        )
    if critical.critical is not None:
        layers.append(canvas.rule(limit, x=critical.critical))
    layers.append(canvas.points(seeds, size=81))
    measured = "; ".join(
        f"{point.batch:,.0f}: " + ", ".join(f"{steps:,.0f}" for steps in point.steps) for point in critical.points
    )
    formula = f"steps = {round(critical.a, 1):,.9g} + {critical.b:,.0f} / batch size"
    excluded = "".join(f" Not in the fit: {batch:,.0f} {reason}." for batch, reason in critical.left_out.items())
    return Chart(
        f"Steps to {objective_name(critical.objective)} {objective_value(critical.objective, critical.target)}",
        f"Steps to the target by batch size: {measured}. {critical.text}",
        tuple(layers),
        f"{formula}. Each point is a seed at the best values of its size.{excluded}",
    )


def value_axis(values: Sequence[Any], title: str) -> Axis:
    """The axis of a varied setting: linear or logarithmic for numbers, else names side by side."""
    if not all(map(is_number, values)):
        return Axis(title, scale="names", names=tuple(dict.fromkeys(map(setting_value, values))))
    numbers = sorted({float(value) for value in values})
    ticks = tuple(numbers) if len(numbers) <= _MAX_TICKS else ()
    if _are_factors(numbers):
        margin = (numbers[-1] / numbers[0]) ** 0.05
        return Axis(title, (numbers[0] / margin, numbers[-1] * margin), "log", ticks)
    return Axis(title, widened(numbers[0], numbers[-1]), "linear", ticks)


def _are_factors(numbers: Sequence[float]) -> bool:
    """Whether the median lies nearer to the geometric than to the arithmetic middle of the range."""
    low, middle, high = numbers[0], statistics.median(numbers), numbers[-1]
    if low <= 0 or high / low < _LOG_RATIO:
        return False
    by_factor, by_difference = math.log(middle / low) / math.log(high / low), (middle - low) / (high - low)
    return abs(by_factor - 0.5) < abs(by_difference - 0.5)


def _title(objective: str) -> str:
    name = objective_name(objective)
    return name[0].upper() + name[1:]


def _series(groups: Sequence[SeedGroup], objective: str, varied: str) -> dict[str, Series]:
    """Other settings → points; all points in one series if there are more of them than colours."""
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
    """Domain of the vertical axis: all values, and the intervals as far as `_INTERVAL_REACH` allows."""
    values = [value for estimate in estimates for value in estimate.values]
    low, high = widened(min(values), max(values))
    reach = _INTERVAL_REACH * (max(values) - min(values))
    ends = [end for estimate in estimates for end in estimate.interval or ()]
    return max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)


def _position(value: Any, axis: Axis) -> float | str:
    return setting_value(value) if axis.scale == "names" else float(value)


def _mean_row(value: Any, group: SeedGroup, estimate: SeedInterval, objective: str, series: str, axis: Axis) -> Row:
    seeds = f"mean of {len(estimate.values)} seeds" if len(estimate.values) > 1 else "one seed"
    tooltip = (
        f"{settings_text(group.values)}: {objective_name(objective)} {mean_with_interval(objective, estimate)}, {seeds}"
    )
    return Row(_position(value, axis), estimate.mean, tooltip, series)


def _seed_rows(point: tuple[Any, SeedGroup, SeedInterval], objective: str, series: str, axis: Axis) -> list[Row]:
    value, group, _ = point
    return [
        Row(_position(value, axis), measure, _tooltip(trial, trial.step, objective, measure), series)
        for trial in group.trials
        if (measure := trial.last(objective)) is not None and math.isfinite(measure)
    ]


def _tooltip(trial: Trial, step: float, objective: str, value: float) -> str:
    measure = f"{objective_name(objective)} {objective_value(objective, value)}"
    return f"{settings_text(trial.values)}, step {step:,.0f}: {measure}"


def _place(trial: Trial, x: str, y: str) -> tuple[float, float] | None:
    right, up = trial.last(x), trial.last(y)
    return None if right is None or up is None or not math.isfinite(right + up) else (right, up)


def _spread(rows: Sequence[Row], canvas: Canvas) -> list[Row]:
    """The rows whose labels do not overlap with one before them."""
    kept: list[Row] = []
    (left, right), (low, high) = canvas.x.domain or (0, 1), canvas.y.domain or (0, 1)
    for row in rows:
        far = (
            abs(float(row.x) - float(other.x)) > 0.15 * (right - left) or abs(row.y - other.y) > 0.09 * (high - low)
            for other in kept
        )
        if all(far):
            kept.append(row)
    return kept


def _curve(trial: Trial, objective: str) -> list[tuple[int, float]]:
    """Steps and finite values."""
    values = [(step, row[objective]) for step, row in sorted(trial.rows.items()) if objective in row]
    return [(step, value) for step, value in values if math.isfinite(value)]
