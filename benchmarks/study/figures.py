"""Draw the charts of the study, docs/study-*.svg.

    python benchmarks/study/figures.py [--part NAME …] [--runs runs/study] [--docs docs]

Charts over systems are drawn from docs/study.csv, which results.py writes; those by language need the runs themselves.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
from results import arguments
from systems import (
    DISTANCE,
    FIGURES,
    FIXES,
    MONO_AP,
    MULTI_AP,
    TRAINED,
    UNSEEN,
    WHOLE_TRAINED,
    Figure,
    System,
    find_systems,
)

from hbt_ray.report.charts import Axis, Canvas, Row, standalone_svg, widened
from hbt_ray.retrieval.significance import SeedInterval

BY_ALPHA = {0.0: "cross-rows", 0.25: "hybrid-0.25", 0.5: "hybrid-0.5", 0.75: "hybrid-0.75", 1.0: "mono"}
POLICY_COLOURS = {"untrained": "muted", "mono": "cross", "hybrid": "mono", "cross": "mixed"}
LABEL_LEFT = ("cross-rows", "hybrid+erasure-30", "cross-12-layers-cold")
"""Systems with their name on the left of their point, since another point is on the right."""
Values = Mapping[str, Mapping[str, Mapping[str, float]]]
"""System → run without its name, such as `-seed1` → title of a figure → value."""


def read_values(path: Path, part: str) -> Values:
    """The values of one part of the study from docs/study.csv."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["part"] == part:
                seed = re.search(r"-seed\d+", row["run"])
                numbers = {figure.title: float(row[figure.title]) for figure in FIGURES}
                values.setdefault(row["system"], {})[seed[0] if seed else ""] = numbers
    return values


def over_alpha(values: Values) -> alt.HConcatChart:
    """The four figures by the share of monolingual batches: seeds as dots, means joined, Student's intervals."""
    points = {alpha: values[name] for alpha, name in BY_ALPHA.items() if name in values}
    panels = []
    for figure in FIGURES:
        estimates = {
            alpha: SeedInterval.from_values([run[figure.title] for run in runs.values()])
            for alpha, runs in points.items()
        }
        rows = [
            # A single seed has no interval.
            Row(alpha, estimate.mean, low=(estimate.interval or (estimate.mean,) * 2)[0],
                high=(estimate.interval or (estimate.mean,) * 2)[1])
            for alpha, estimate in estimates.items()
        ]  # fmt: skip
        seeds = [Row(alpha, value) for alpha, estimate in estimates.items() for value in estimate.values]
        domain = widened(min(row.low for row in rows), max(row.high for row in rows))
        canvas = Canvas(Axis("alpha", (-0.05, 1.05), ticks=tuple(BY_ALPHA)), Axis("", domain), {"": "mono"})
        layers = alt.layer(
            canvas.intervals(rows),
            canvas.line(rows, width=1.25),
            canvas.points(seeds, size=16, opacity=0.5, xOffset=6),
            canvas.points(rows, size=49),
        )
        direction = "higher is better" if figure.higher else "lower is better"
        panels.append(layers.properties(width=230, height=170, title=f"{figure.title} ({direction})"))
    return alt.hconcat(*panels)


def methods(values: Values, trained: Sequence[str] = TRAINED, fixes: Sequence[str] = FIXES) -> alt.HConcatChart:
    """The gain of each system in one pool and its price in one language, over the seeds that all systems have.

    Thin lines lead from an encoder to its transforms, each of which is marked by its first letter.
    """
    transformed = [f"{name}+{fix}" for name in trained for fix in fixes]
    names = [name for name in [*trained, *transformed] if name in values]
    seeds = frozenset.intersection(*(frozenset(values[name]) for name in names))

    def mean(name: str, figure: Figure) -> float:
        return sum(values[name][seed][figure.title] for seed in seeds) / len(seeds)

    panels = []
    for figure, title in ((MULTI_AP, "one pool of all languages"), (DISTANCE, "language bias")):
        places = {name: (mean(name, MONO_AP), mean(name, figure)) for name in names}
        xs, ys = zip(*places.values(), strict=True)
        label = figure.title if figure.higher else f"{figure.title} (less is up)"
        axes = (
            Axis("mono AP", widened(min(xs), max(xs))),
            Axis(label, widened(min(ys), max(ys)), reverse=not figure.higher),
        )
        canvas = Canvas(*axes, {policy: colour for policy, colour in POLICY_COLOURS.items() if policy != "untrained"})
        encoders, moves, letters = [], [], []
        for name in (name for name in trained if name in places):
            policy = next(policy for policy in POLICY_COLOURS if name.startswith(policy[:4]))
            encoders.append(Row(*places[name], re.sub(r"-([\d.]+|12-layers-cold)$", "", name), policy, group=name))
            for fix in (fix for fix in fixes if f"{name}+{fix}" in places):
                ends = (places[name], places[f"{name}+{fix}"])
                moves += [Row(*end, series=policy, group=f"{name}+{fix}") for end in ends]
                letters.append(Row(*ends[1], fix[0], policy))
        left = [row for row in encoders if row.group in LABEL_LEFT]
        layers = alt.layer(
            canvas.line(moves, width=0.75, opacity=0.5),
            canvas.points(encoders, size=64),
            canvas.labels(letters, align="center", dx=0, dy=0, fontWeight="bold"),
            canvas.labels([row for row in encoders if row not in left], dy=9),
            canvas.labels(left, align="right", dx=-7, dy=9),
        )
        legend = ", ".join(f"{fix[0]}: then {fix}" for fix in fixes)
        title = f"{title}: up and right is better ({legend})"
        panels.append(layers.properties(width=470, height=330, title=title))
    return alt.hconcat(*panels)


def by_language(systems: Mapping[str, System]) -> alt.HConcatChart:
    """AP by question language, in its own corpus and in one pool of all; unseen languages come last, with a star."""
    colours = {"untrained": "muted", "mono": "cross", "hybrid-0.5": "mono", "cross-rows": "mixed"}
    results = {name: systems[name].mean for name in colours if name in systems}
    languages = sorted(next(iter(results.values())).languages, key=lambda language: (language in UNSEEN, language))
    ticks = {language: language + " *" * (language in UNSEEN) for language in languages}
    axis = Axis("question language (*: not trained on)", scale="names", names=tuple(ticks.values()))
    panels = []
    for title, pooled in (("own language (mono AP)", False), ("one pool of all languages (multi AP)", True)):
        rows = [
            Row(tick, result.pool[tag]["AP"] if pooled else result.pairs[tag][tag]["AP"], series=name)
            for name, result in results.items()
            for tag, tick in ticks.items()
        ]
        canvas = Canvas(axis, Axis("", (0, max(row.y for row in rows))), {name: colours[name] for name in results})
        layers = alt.layer(canvas.line(rows, width=1), canvas.points(rows, size=36))
        panels.append(layers.properties(width=470, height=220, title=title))
    return alt.hconcat(*panels)


def main() -> None:
    options = arguments(__doc__)
    table, charts = options.docs / "study.csv", {}
    if "policies" in options.part:
        charts["alpha"] = over_alpha(read_values(table, "policies"))
        if systems := find_systems(options.runs):
            charts["languages"] = by_language(systems)
    if "methods" in options.part:
        charts["methods"] = methods(read_values(table, "methods"))
    if "whole" in options.part:
        charts["whole"] = methods(read_values(table, "whole"), WHOLE_TRAINED, ["shift"])
    for name, chart in charts.items():
        (options.docs / f"study-{name}.svg").write_text(standalone_svg(chart), encoding="utf-8")


if __name__ == "__main__":
    main()
