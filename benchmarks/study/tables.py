"""The tables of the study, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from systems import (
    BF16,
    CROSS,
    CROSS_AP,
    DISTANCE,
    FIGURES,
    MONO,
    MONO_AP,
    MULTI_AP,
    UNSEEN,
    Comparisons,
    Figure,
    System,
)

from hbt_ray.languages.families import family
from hbt_ray.markdown import pipe_table
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.significance import CONFIDENCE, compare_systems, holm
from hbt_ray.train.config import TrainConfig

CLAIMS = (
    # (better, worse, by what): the paper's ordering, tables 1 and 2.
    ("hybrid", "mono", MONO_AP),
    ("hybrid", "cross", CROSS_AP),
    ("hybrid", "cross", MULTI_AP),
    ("hybrid", "cross", DISTANCE),
    ("cross", "mono", DISTANCE),
    # What it rests on: each pure policy is better at its own.
    ("mono", "cross", MONO_AP),
    ("cross", "mono", CROSS_AP),
    ("hybrid", "mono", MULTI_AP),
)
TATOEBA = "tatoeba-xtreme"
SCIFACT = "scifact"
OTHERS = {TATOEBA: (CROSS, ("R@1", "MarginR@1")), SCIFACT: (MONO, ("nDCG@10", "R@100"))}
"""Task → setting and measures."""
TRAIN = Path(__file__).with_name("train.yaml")


def plain_table(systems: Mapping[str, System], names: Mapping[str, str]) -> str:
    """The figures of each system. `names`: name in the table → name of the system."""
    there = {shown: systems[name] for shown, name in names.items() if name in systems}
    rows = [
        [shown, str(len(system.group)), *(system.shown(figure) for figure in FIGURES)]
        for shown, system in there.items()
    ]
    return pipe_table(["system", "seeds", *(f.title + (" ↑" if f.higher else " ↓") for f in FIGURES)], rows)


def claims_table(systems: Mapping[str, System], comparisons: Comparisons, names: Mapping[str, str]) -> str:
    """Each claim with both of its tests: other questions, and other seeds. `names`: policy → system."""
    claims = [claim for claim in CLAIMS if names[claim[0]] in systems and names[claim[1]] in systems]
    found = [comparisons.of(names[a], names[b], figure) for a, b, figure in claims]
    rows = []
    for (a, b, figure), difference, p in zip(claims, found, holm([each.p for each in found]).tolist(), strict=True):
        seeds = comparisons.over_seeds(names[a], names[b], figure)
        sign = 1 if figure.higher else -1
        rows.append([
            f"{a} {'>' if figure.higher else '<'} {b} by {figure.title}",
            signed(difference.difference, figure),
            f"[{signed(difference.low, figure)}, {signed(difference.high, figure)}]",
            f"{p:.4f}" if p >= 1e-4 else "< .0001",
            f"[{signed(seeds[0], figure)}, {signed(seeds[1], figure)}]" if seeds else "–",
            decided(sign * difference.difference, p, seeds),
        ])  # fmt: skip
    return pipe_table(["claim", "difference", "over questions, 95 %", "p (Holm)", "over seeds, 95 %", "outcome"], rows)


def decided(gain: float, p: float, seeds: tuple[float, float] | None) -> str:
    """Outcome of a claim; it is decided only if it holds over both other questions and other seeds."""
    if p >= 1 - CONFIDENCE or seeds is None or seeds[0] <= 0 <= seeds[1]:
        return "undecided"
    return "confirmed" if gain > 0 else "refuted"


def against_table(systems: Mapping[str, System], comparisons: Comparisons, names: Sequence[str], to: str) -> str:
    """Differences from one system, whose own figures come first.

    A star marks a difference that holds over questions (Holm over all) and over seeds.
    """
    there = [name for name in names if name in systems and name != to]
    cells = [(name, figure, comparisons.of(name, to, figure)) for name in there for figure in FIGURES]
    corrected = holm([difference.p for *_, difference in cells]).tolist()
    rows: dict[str, list[str]] = {name: [name, str(len(systems[name].group))] for name in there}
    for (name, figure, difference), p in zip(cells, corrected, strict=True):
        sure = p < 1 - CONFIDENCE and comparisons.seeds_agree(name, to, figure)
        rows[name].append(signed(difference.difference, figure) + (" *" if sure else ""))
    itself = [to, str(len(systems[to].group)), *(systems[to].shown(figure) for figure in FIGURES)]
    heads = [f"minus {to}", "seeds", *(f.title + (" ↑" if f.higher else " ↓") for f in FIGURES)]
    return pipe_table(heads, [itself, *rows.values()])


def kinship_table(systems: Mapping[str, System], names: Sequence[str]) -> str:
    """AP by family and script of the two languages, and by whether they were trained on."""

    def unseen(*languages: str) -> int:
        return sum(language in UNSEEN for language in languages)

    def share(a: str, b: str) -> tuple[bool, bool]:
        return family(a).family == family(b).family, family(a).script == family(b).script

    classes: dict[str, Callable[[str, str], bool]] = {
        "mono, seen": lambda a, b: a == b and not unseen(a),
        "unseen": lambda a, b: a == b and unseen(a) > 0,
        "cross, both seen": lambda a, b: a != b and unseen(a, b) == 0,
        "one unseen": lambda a, b: a != b and unseen(a, b) == 1,
        "both unseen": lambda a, b: a != b and unseen(a, b) == 2,
        "same family": lambda a, b: a != b and share(a, b)[0],
        "other family": lambda a, b: not share(a, b)[0],
        "same script": lambda a, b: a != b and share(a, b)[1],
        "other script": lambda a, b: not share(a, b)[1],
    }
    rows = []
    for name in (name for name in names if name in systems):
        result = systems[name].mean
        pairs = [(a, b, found["AP"]) for a, row in result.pairs.items() for b, found in row.items()]
        cells = [mean([value for a, b, value in pairs if fits(a, b)]) for fits in classes.values()]
        pool = [mean([row["AP"] for a, row in result.pool.items() if unseen(a) == which]) for which in (0, 1)]
        rows.append([name, *(MONO_AP.text(cell) for cell in [*cells, *pool])])
    return pipe_table(["AP", *classes, "multi, seen", "unseen"], rows)


def others_table(runs: Path, names: Sequence[str], to: str) -> str:
    """Results of the first seed on Tatoeba and SciFact; a star marks a difference from `to` (questions, Holm over all).

    Tatoeba is also shown for the languages that were trained on and for the others, without stars.
    """
    found = {
        (name, task): EvaluationResult.load(path)
        for name, task in product(names, OTHERS)
        for path in sorted(runs.glob(f"{name}*/results/{task}*/result.json"))
        if path.parts[-4] in (name, f"{name}-seed0") and path.parts[-2] in (task, task + BF16)
    }
    trained = {language.split("-")[0] for language in TrainConfig.load(TRAIN).plan.languages}
    tests: dict[tuple[str, str], float] = {}
    for (name, task), one in found.items():
        setting, measures = OTHERS[task]
        for measure in measures if name != to else ():
            differences = compare_systems(one.queries, found[to, task].queries, measure)  # type: ignore[arg-type]
            tests[name, measure] = next(each.p for each in differences if each.setting == setting)
    sure = {cell for cell, p in zip(tests, holm(list(tests.values())), strict=True) if p < 1 - CONFIDENCE}

    def cells(name: str) -> Iterable[str]:
        for task, (setting, measures) in OTHERS.items():
            if (name, task) not in found:
                yield from ["–"] * (len(measures) + 2 * (task == TATOEBA))
                continue
            result = found[name, task]
            for measure in measures:
                yield MONO_AP.text(result.settings[setting][measure]) + (" *" if (name, measure) in sure else "")
            if task == TATOEBA:
                for which in (True, False):
                    accuracies = [row["en"]["R@1"] for at, row in result.pairs.items() if (at in trained) == which]
                    yield MONO_AP.text(mean(accuracies))

    heads = ["seed 0", "Tatoeba R@1", "by margin", "trained on", "not", "SciFact nDCG@10", "R@100"]
    return pipe_table(heads, [[name, *cells(name)] for name in names if any((name, task) in found for task in OTHERS)])


def signed(value: float, figure: Figure) -> str:
    return ("−" if value < 0 else "+") + figure.text(abs(value))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
