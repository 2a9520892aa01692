"""The figures of the study, from the results of the runs of recipes.sh.

They need matplotlib, which nothing else here does:

    pip install matplotlib
    python benchmarks/study/figures.py [--part NAME …] [--runs runs/study] [--docs docs]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
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
    System,
    find_systems,
)

BY_ALPHA = {0.0: "cross-rows", 0.25: "hybrid-0.25", 0.5: "hybrid-0.5", 0.75: "hybrid-0.75", 1.0: "mono"}
MARKS = {"lakda": "s", "alignment": "^", "erasure": "D"} | {fix: f"${fix[0]}$" for fix in FIXES}
LEFT = ("cross-rows", "hybrid+erasure-30", "cross-12-layers-cold")  # Whose names would lie on another's.
LINES = {"untrained": "#999999", "mono": "#b3541e", "hybrid-0.5": "#00696b", "cross-rows": "#4b3f9e"}
plt.rcParams |= {
    "svg.hashsalt": "hbt_ray",  # The same results give the same file.
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.facecolor": "white",
}


def over_alpha(systems: Mapping[str, System]) -> Any:
    """The four figures over the share of monolingual batches: seeds as dots, means joined, Student's intervals."""
    whole, axes = plt.subplots(1, len(FIGURES), figsize=(11, 2.7), layout="constrained")
    points = {alpha: systems[name] for alpha, name in BY_ALPHA.items() if name in systems}
    for axis, figure in zip(axes, FIGURES, strict=True):
        estimates = [system.estimate(figure) for system in points.values()]
        axis.errorbar(
            list(points),
            [estimate.mean for estimate in estimates],
            [estimate.half or 0 for estimate in estimates],
            color=LINES["hybrid-0.5"],
            capsize=3,
        )
        for alpha, estimate in zip(points, estimates, strict=True):
            axis.plot([alpha + 0.03] * len(estimate.values), estimate.values, ".", color="#00000070", markersize=4)
        axis.set_title(figure.title + (" (higher is better)" if figure.higher else " (lower is better)"), fontsize=9)
        axis.set_xticks(list(BY_ALPHA))
        axis.set_xlabel("alpha: share of monolingual batches")
    return whole


def methods(systems: Mapping[str, System], trained: Sequence[str] = TRAINED, fixes: Sequence[str] = FIXES) -> Any:
    """What each buys in one pool, and at which price in one language, for the seeds that all have.

    Thin lines lead from an encoder to its fixes.
    """
    fixed = [f"{name}+{fix}" for name in trained for fix in fixes]
    names = [name for name in [*trained, *fixed] if name in systems]
    seeds = frozenset.intersection(*(frozenset(systems[name].group) for name in names))
    systems = {name: systems[name].only(seeds) for name in names}
    whole, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, figure in zip(axes, (MULTI_AP, DISTANCE), strict=True):
        for name in (name for name in trained if name in systems):
            colour = next(colour for policy, colour in LINES.items() if policy[:4] == name[:4])
            at = [systems[name].estimate(each).mean for each in (MONO_AP, figure)]
            axis.plot(*at, marker=next((mark for term, mark in MARKS.items() if term in name), "o"), color=colour)
            side = -1 if name in LEFT else 1
            axis.annotate(
                re.sub(r"-([\d.]+|12-layers-cold)$", "", name), at, xytext=(6 * side, -10), textcoords="offset points",
                ha="right" if side < 0 else "left", fontsize=8, color=colour,
            )  # fmt: skip
            for fix in (fix for fix in fixes if f"{name}+{fix}" in systems):
                to = [systems[f"{name}+{fix}"].estimate(each).mean for each in (MONO_AP, figure)]
                axis.plot([at[0], to[0]], [at[1], to[1]], "-", color=colour, linewidth=0.5, alpha=0.4)
                axis.plot(*to, marker=MARKS[fix], color=colour, markersize=6)
        axis.set_xlabel("mono AP")
        axis.set_ylabel(figure.title + ("" if figure.higher else " (less is up)"))
    axes[0].set_title("one pool of all languages: up and right is better", fontsize=9)
    axes[1].set_title("language bias: up and right is better", fontsize=9)
    axes[1].invert_yaxis()
    handles = [
        plt.Line2D([], [], marker=MARKS[fix], linestyle="", color="#555555", label=f"then {fix}") for fix in fixes
    ]
    axes[0].legend(handles=handles, fontsize=7, frameon=False)
    return whole


def by_language(systems: Mapping[str, System]) -> Any:
    """AP by the language of the question, in its own corpus and in one pool of all; unseen languages stand apart."""
    whole, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained", sharex=True)
    shown = {name: systems[name].mean.result for name in LINES if name in systems}
    languages = sorted(next(iter(shown.values())).languages, key=lambda language: (language in UNSEEN, language))
    for name, result in shown.items():
        values = (
            [result.pairs[language][language]["AP"] for language in languages],
            [result.pool[language]["AP"] for language in languages],
        )
        for axis, heights in zip(axes, values, strict=True):
            axis.plot(languages, heights, "o-", color=LINES[name], label=name, markersize=4, linewidth=0.8)
    for axis, title in zip(axes, ("own language (mono AP)", "one pool of all languages (multi AP)"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.axvspan(len(languages) - len(UNSEEN) - 0.5, len(languages) - 0.5, color="#00000010", linewidth=0)
        axis.set_xlabel("language of the question; shaded: not trained on")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8, frameon=False)
    return whole


DRAWN = {
    "policies": {"alpha": over_alpha, "languages": by_language},
    "methods": {"methods": methods},
    "whole": {"whole": partial(methods, trained=WHOLE_TRAINED, fixes=["shift"])},
}


def main() -> None:
    options = arguments(__doc__)
    systems = find_systems(options.runs)
    for part in options.part:
        for name, draw in DRAWN.get(part, {}).items():
            figure = draw(systems)
            figure.savefig(options.docs / f"study-{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
