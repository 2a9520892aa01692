"""The figures of a training run: loss, dev measures, mixture, batches by language, throughput, learning rate."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hbt_ray.report.chart import Chart, Line, Scale, chart, dots, line, percentage, rule, tick_label
from hbt_ray.report.curve import KINDS, Curve, smooth
from hbt_ray.report.dev import Rows, pool_loss_chart, precision_chart
from hbt_ray.report.labels import duration, language_name

KIND_NAMES = {"mono": "monolingual", "cross": "cross-lingual", "mixed": "mixed", "": "all batches"}
# A spike of one step must not flatten the curve: the axis ends here, and the caption counts what is above it.
CLIP_QUANTILE = 0.995


@dataclass(frozen=True)
class Bar:
    tag: str
    name: str
    count: int
    share: float
    """Of the longest bar, in per cent."""


@dataclass(frozen=True)
class Training:
    summary: str
    wide: tuple[Chart, ...]
    charts: tuple[Chart, ...]
    bars: tuple[Bar, ...]


def training(curve: Curve, policy: str, dev: Rows = (), best: int | None = None) -> Training | None:
    """None where there is no row; a figure without its numbers is left out."""
    if not len(curve.steps):
        return None
    loss, mixture = _loss(curve), _mixture(curve, target_share(policy))
    speed, rate = _throughput(curve), _learning_rate(curve)
    precision, pool_loss = (draw(dev, best, _steps_scale(curve)) for draw in (precision_chart, pool_loss_chart))
    counts = curve.mono_batches
    longest = max(counts.values(), default=1)
    bars = tuple(Bar(tag, language_name(tag), n, round(100 * n / longest, 1)) for tag, n in counts.items())
    return Training(
        summary=_summary(curve, policy),
        wide=tuple(figure for figure in (loss, precision) if figure),
        charts=tuple(figure for figure in (mixture, pool_loss, speed, rate) if figure),
        bars=bars,
    )


def target_share(policy: str) -> float | None:
    """The share of monolingual batches that a policy aims at: `hybrid(0.5)` → 0.5; None for a schedule."""
    match = re.fullmatch(r"hybrid\(\s*([0-9]*\.?[0-9]+)\s*\)", policy)
    return float(match[1]) if match else {"mono": 1.0, "cross": 0.0}.get(policy)


def _summary(curve: Curve, policy: str) -> str:
    """`600 steps of hybrid(0.5) batches: 301 monolingual, 299 cross-lingual; …`"""
    counts = {kind: int((curve.kinds == kind).sum()) for kind in KINDS}
    kinds = ", ".join(f"{count:,} {KIND_NAMES[kind]}" for kind, count in counts.items() if count)
    text = f"{curve.num_steps:,} steps" + (f" of {policy} batches" if policy else "") + (f": {kinds}" if kinds else "")
    if (recorded := len(curve.steps)) < curve.num_steps:
        text += f" ({recorded:,} on record)"
    _, stalls = curve.series("stall_seconds")
    if len(stalls):
        text += (
            f"; {duration(float(stalls.sum()))} spent waiting for data, at most {duration(float(stalls.max()))} at once"
        )
    return text + "."


def _steps_scale(curve: Curve) -> Scale:
    return Scale.over(float(curve.steps[0]), float(curve.num_steps), count=6, widen=False)


def _window(count: int) -> int:
    return max(5, count // 25) | 1


def _loss(curve: Curve) -> Chart | None:
    steps, losses = curve.series("loss")
    if not len(steps):
        return None
    kinds = [kind for kind in KINDS if len(curve.series("loss", kind)[0])] or [""]
    series = {kind: curve.series("loss", kind or None) for kind in kinds}
    window = _window(max(len(values) for _, values in series.values()))
    smoothed = {kind: smooth(values, window) for kind, (_, values) in series.items()}
    top = max(float(np.quantile(losses, CLIP_QUANTILE)), *(float(values.max()) for values in smoothed.values()))
    low = min(0.0, float(losses.min())) if losses.min() < 0.4 * top else float(losses.min())
    scales = (_steps_scale(curve), Scale.over(low, top))
    lines: list[Line] = []
    for kind, (xs, ys) in series.items():
        shown = ys <= scales[1].high
        lines.append(dots(kind or "plain", xs[shown], ys[shown], scales))
    lines += [line(kind or "plain", series[kind][0], smoothed[kind], scales) for kind in kinds]
    ends = [f"{KIND_NAMES[kind]} from {_plain(smoothed[kind][0])} to {_plain(smoothed[kind][-1])}" for kind in kinds]
    notes = [f"dots: single batches; lines: running mean over {window:,} batches of a kind"]
    if above := int((losses > scales[1].high).sum()):
        notes.append(f"{above:,} above the axis, at most {_plain(float(losses.max()))}")
    if bad := int(len(curve.steps) - len(steps)):
        notes.append(f"{bad:,} step{'s' * (bad != 1)} without a finite loss")
    legend = tuple((kind or "plain", KIND_NAMES[kind]) for kind in kinds)
    return chart("Loss", f"Loss by step: {'; '.join(ends)}.", scales, lines, legend=legend, note="; ".join(notes))


def _mixture(curve: Curve, target: float | None) -> Chart | None:
    steps, shares = curve.mono_share
    if not len(steps):
        return None
    scales = (_steps_scale(curve), Scale(0, 1, (0, 0.25, 0.5, 0.75, 1), as_percentage=True))
    lines = [line("mono", steps, shares, scales)]
    legend = [("mono", f"so far: {shares[-1]:.1%}")]
    if target is not None:
        lines.insert(0, rule("target", target, scales))
        legend.append(("target", f"target: {percentage(target)}"))
    words = f"Share of monolingual batches so far, by step: {shares[-1]:.1%} at the end"
    words += f", target {percentage(target)}." if target is not None else "."
    return chart("Share of monolingual batches so far", words, scales, lines, legend=tuple(legend))


def _throughput(curve: Curve) -> Chart | None:
    steps, speeds = curve.series("pairs_per_second")
    if not len(steps):
        return None
    middle = tick_label(round(float(np.median(speeds)), 0 if np.median(speeds) >= 10 else 2))
    scales = (_steps_scale(curve), Scale.over(0, float(np.quantile(speeds, CLIP_QUANTILE))))
    shown = speeds <= scales[1].high
    mean = np.minimum(smooth(speeds, _window(len(speeds))), scales[1].high)
    lines = [dots("plain", steps[shown], speeds[shown], scales), line("plain", steps, mean, scales)]
    words = f"Training pairs a second by step; the median is {middle}."
    return chart("Pairs per second", words, scales, lines, legend=(("plain", f"median: {middle}"),))


def _learning_rate(curve: Curve) -> Chart | None:
    steps, rates = curve.series("learning_rate")
    if not len(steps):
        return None
    scales = (_steps_scale(curve), Scale.over(0, float(rates.max())))
    words = f"Learning rate by step; the highest is {tick_label(float(rates.max()))}."
    legend = (("plain", f"highest: {tick_label(float(rates.max()))}"),)
    return chart("Learning rate", words, scales, [line("plain", steps, rates, scales)], legend=legend)


def _plain(value: float) -> str:
    return f"{value:.3g}"
