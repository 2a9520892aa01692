"""The figures of a search: objectives over what is varied, fronts of two objectives, curves over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hbt_ray.report.chart import EXTENT, Chart, Line, Scale, dots, line
from hbt_ray.report.curve import Floats
from hbt_ray.report.search import labels as words
from hbt_ray.report.search.axis import Axis
from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.tune.state import SearchState, SeedGroup, Trial

STYLES = ("mono", "cross", "mixed", "plain")
FRONTS = (("mono_AP", "cross_AP"), ("AP", "RankDistance"))
"""What may have to be paid for with what; higher is better in the first of each."""
_MOST_JOINED = 12
"""Values, above which a line through all of them would be a scribble."""
_DODGE = 0.012
"""Of the axis, between series at one value, so that none hides another's interval."""
_ASIDE = 0.015
"""Of the axis, between the dots of seeds and the bar of their interval."""
_BEYOND = 0.6
"""How far intervals may widen the axis, in spans of the values: that of two seeds is twelve times as wide as they."""

Scales = tuple[Scale, Scale]
Series = list[tuple[Any, SeedInterval]]
"""Varied value, what was measured there."""


def objective_chart(groups: Sequence[SeedGroup], objective: str, varied: str) -> Chart | None:
    """Seeds as dots, means joined, intervals as bars; None where no finished trial measured the objective.

    A line for each combination of the other values, as far as there are colours.
    """
    series = _series(groups, objective, varied)
    if not series:
        return None
    axis = Axis.over([value for points in series.values() for value, _ in points])
    estimates = [estimate for points in series.values() for _, estimate in points]
    scales = (axis.scale, _range_of(estimates))
    joined = axis.num_values <= _MOST_JOINED
    lines: list[Line] = []
    for i, points in enumerate(series.values()):
        dodge = _DODGE * (i - (len(series) - 1) / 2) * (axis.scale.high - axis.scale.low)
        lines += _drawn(points, STYLES[i], axis, dodge, scales, joined)
    legend = tuple((STYLES[i], name) for i, name in enumerate(series) if name)
    clipped = any(_is_beyond(estimate, scales[1]) for estimate in estimates)
    return Chart(
        _title(objective),
        _description(groups, objective),
        axis.marks,
        tuple(scales[1].marks()),
        tuple(lines),
        legend,
        note="intervals that end at the edge go on beyond it" if clipped else "",
    )


def is_slanted(groups: Sequence[SeedGroup], varied: str) -> bool:
    """Whether the labels of what is varied are too long to stand side by side."""
    return bool(groups) and Axis.over([group.values.get(varied) for group in groups]).is_slanted


def front_chart(board: SearchState, x: str, y: str, varied: str) -> Chart | None:
    """Every finished trial by two objectives, with those marked that none surpasses in both."""
    points = {trial.trial_id: place for trial in board.finished if (place := _place(trial, x, y))}
    front = sorted(
        (trial for trial in board.front((x, y)) if trial.trial_id in points), key=lambda t: points[t.trial_id]
    )
    if not front:
        return None
    xs, ys = (np.array(numbers) for numbers in zip(*points.values(), strict=True))
    best = np.array([points[trial.trial_id] for trial in front])
    scales = (_padded(xs), _padded(ys))
    stairs = Line("cross", _stairs(best, scales))
    lines = [stairs, dots("plain seed", xs, ys, scales), dots("cross mean", best[:, 0], best[:, 1], scales)]
    told = [f"{words.choice(t.values)}: {words.figure(x, t.last(x))}, {words.figure(y, t.last(y))}" for t in front]
    return Chart(
        f"{_title(y)} by {words.label(x)}",
        f"{len(points)} trials by {words.label(x)} and {words.label(y)}. On the front: {'; '.join(told)}.",
        tuple(scales[0].marks()),
        tuple(scales[1].marks()),
        tuple(lines),
        (("cross", "front"), ("dot", "other trials")),
        labels=_labels(best, [words.value(trial.values.get(varied)) for trial in front], scales),
    )


def curve_chart(board: SearchState, objective: str) -> Chart | None:
    """The objective by step of every trial: the best stands out, those that were stopped are faint."""
    curves = {trial.trial_id: _curve(trial, objective) for trial in board.trials}
    seen = [points for points in curves.values() if len(points)]
    if not seen:
        return None
    everything = np.concatenate(seen)
    scales = (
        Scale.over(0, float(everything[:, 0].max()), count=6, widen=False),
        Scale.over(float(everything[:, 1].min()), float(everything[:, 1].max())),
    )
    best = board.best(objective)
    styles = {trial.trial_id: "plain" if trial.status == "finished" else "faint" for trial in board.trials}
    if best:
        styles[best.trial_id] = "mono"
    lines: list[Line] = []
    for wanted in ("faint", "plain", "mono"):  # The best is drawn last, above the others.
        for name, style in styles.items():
            if style == wanted and len(curves[name]):
                lines += _traced(style, curves[name], scales)
    legend = [("mono", f"best: {words.short_choice(best)}")] if best else []
    if "plain" in styles.values():
        legend.append(("plain", "other finished trials" if best else "finished"))
    if "faint" in styles.values():
        legend.append(("faint", "not finished"))
    ends = f"; the best ends at {words.figure(objective, best.last(objective))}" if best else ""
    words_of = f"{words.label(objective)} by step of {len(seen)} trials{ends}."
    return Chart(
        _title(objective),
        words_of,
        tuple(scales[0].marks()),
        tuple(scales[1].marks()),
        tuple(lines),
        tuple(legend),
    )


def _title(objective: str) -> str:
    text = words.label(objective)
    return text[0].upper() + text[1:]


def _series(groups: Sequence[SeedGroup], objective: str, varied: str) -> dict[str, Series]:
    """What the other values are → points; all in one where they are too many to tell apart."""
    found: dict[str, Series] = {}
    keys = dict.fromkeys(key for group in groups for key in group.values if key != varied)
    for group in groups:
        if estimate := group.estimate(objective):
            others = {key: group.values.get(key) for key in keys}  # What was not fixed after training has a name too.
            found.setdefault(words.choice(others), []).append((group.values.get(varied), estimate))
    if 1 < len(found) <= len(STYLES):
        return found
    together = [point for points in found.values() for point in points]
    return {"": together} if together else {}


def _range_of(estimates: Sequence[SeedInterval]) -> Scale:
    values = [value for estimate in estimates for value in estimate.values]
    low, high = min(values), max(values)
    reach = _BEYOND * (high - low)
    ends = [end for estimate in estimates for end in estimate.interval or ()]
    return Scale.over(max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach))


def _is_beyond(estimate: SeedInterval, scale: Scale) -> bool:
    low, high = estimate.interval or (scale.low, scale.high)
    return low < scale.low or high > scale.high


def _drawn(points: Series, style: str, axis: Axis, dodge: float, scales: Scales, joined: bool) -> list[Line]:
    places = np.array([axis.place(value) + dodge for value, _ in points])
    means = np.array([estimate.mean for _, estimate in points])
    bars = "".join(
        _bar(place, estimate.interval, scales)
        for place, (_, estimate) in zip(places, points, strict=True)
        if estimate.interval
    )
    repeated = [(place, each.values) for place, (_, each) in zip(places, points, strict=True) if len(each.values) > 1]
    aside = _ASIDE * (axis.scale.high - axis.scale.low)
    xs = np.array([place - aside for place, values in repeated for _ in values])
    ys = np.array([value for _, values in repeated for value in values])
    lines = [Line(f"{style} interval", bars)] if bars else []
    unique = len(set(places.tolist())) == len(places)
    if joined and unique and len(points) > 1 and axis.kind != "names":
        lines.append(line(f"{style} thin", places, means, scales))
    if len(xs):
        lines.append(dots(f"{style} seed", xs, ys, scales))
    return [*lines, dots(f"{style} mean", places, means, scales)]


def _bar(place: float, interval: tuple[float, float], scales: Scales) -> str:
    ends = np.clip(np.array(interval), scales[1].low, scales[1].high)
    x = EXTENT * float(scales[0].at(np.array([place]))[0])
    low, high = EXTENT * (1 - scales[1].at(ends))
    return f"M{x:.0f} {low:.0f}V{high:.0f}"


def _description(groups: Sequence[SeedGroup], objective: str) -> str:
    told = [
        f"{words.choice(group.values)}: {words.told(objective, estimate)}"
        for group in groups
        if (estimate := group.estimate(objective))
    ]
    return f"{words.label(objective)} of finished trials. {'; '.join(told)}."


def _place(trial: Trial, x: str, y: str) -> tuple[float, float] | None:
    right, up = trial.last(x), trial.last(y)
    if right is None or up is None or not math.isfinite(right + up):
        return None
    return right, up


def _padded(values: Floats) -> Scale:
    return Scale.over(float(values.min()), float(values.max()))


def _stairs(front: Floats, scales: Scales) -> str:
    """Between two points of the front nothing better was found than a corner."""
    right, down = EXTENT * scales[0].at(front[:, 0]), EXTENT * (1 - scales[1].at(front[:, 1]))
    first, *others = zip(right, down, strict=True)
    return f"M{first[0]:.0f} {first[1]:.0f}" + "".join(f"V{y:.0f}H{x:.0f}" for x, y in others)


def _labels(front: Floats, names: Sequence[str], scales: Scales) -> tuple[tuple[float, float, str], ...]:
    """Of those points that have room for one."""
    kept: list[tuple[float, float, str]] = []
    for right, up, name in zip(100 * scales[0].at(front[:, 0]), 100 * scales[1].at(front[:, 1]), names, strict=True):
        if all(abs(right - x) > 15 or abs(up - y) > 9 for x, y, _ in kept):
            kept.append((round(float(right), 1), round(float(up), 1), name))
    return tuple(kept)


def _curve(trial: Trial, objective: str) -> Floats:
    """[rows, 2]: step, value."""
    found = [(step, row[objective]) for step, row in sorted(trial.rows.items()) if objective in row]
    return np.array([point for point in found if math.isfinite(point[1])], np.float64).reshape(-1, 2)


def _traced(style: str, points: Floats, scales: Scales) -> list[Line]:
    if len(points) == 1:
        return [dots(f"{style} seed", points[:, 0], points[:, 1], scales)]
    return [line("plain thin" if style == "plain" else style, points[:, 0], points[:, 1], scales)]
