"""What the runs of recipes.sh found: tables from their verdicts, into docs/study.md.

    python benchmarks/study/results.py [--part policies] [--part methods] [--runs runs/study] [--docs docs]

Every table of the page, and the headline in the README, stands between two marks with its name and is written there;
`docs/study.csv` has each run by itself. figures.py draws them. All runs of a part are made on one machine, as bf16 adds
up in another order on another processor; a part that is not named stays as it is.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scipy import stats

from hbt_ray.estimate import CONFIDENCE, Estimate
from hbt_ray.evaluate.compare.seeds import averaged
from hbt_ray.evaluate.significance.resampling import holm
from hbt_ray.evaluate.significance.significance import Difference, compare_systems
from hbt_ray.evaluate.verdict.evidence import Evidence
from hbt_ray.families import family

MONO, CROSS, MULTI = "monolingual", "cross-lingual", "multilingual"
UNSEEN = ("ar", "hi", "th")
"""Languages of XQuAD-R that no run trains on; the encoder knows them from before."""


@dataclass(frozen=True)
class Figure:
    """One of the four that everything is compared by."""

    title: str
    setting: str
    measure: str
    digits: int = 3
    higher: bool = True

    def text(self, value: float) -> str:
        return f"{value:,.0f}" if not self.digits else f"{value:.{self.digits}f}".replace("0.", ".", 1)


FIGURES = (
    Figure("mono AP", MONO, "AP"),
    Figure("cross AP", CROSS, "AP"),
    Figure("multi AP", MULTI, "AP"),
    Figure("rank distance", MULTI, "RankDistance", digits=0, higher=False),
)
MONO_AP, CROSS_AP, MULTI_AP, DISTANCE = FIGURES

POLICIES = (
    "bm25", "untrained", "mixed", "mono", "hybrid-0.75", "hybrid-0.5", "hybrid-0.25", "cross-rows", "cross-pair",
)  # fmt: skip
METHODS = (
    "mono", "hybrid-0.5", "cross-rows",
    "hybrid+lakda-1", "hybrid+alignment-30", "hybrid+erasure-30", "mono+lakda-1", "mono+alignment-30",
    "hybrid-0.5+centering", "hybrid-0.5+lir", "hybrid-0.5+shift", "mono+centering", "mono+lir", "mono+shift",
)  # fmt: skip
PARTS = {"policies": POLICIES, "methods": METHODS}
"""What is compared with one another."""
CLAIMS = (
    # (better, worse, by what): the paper's ordering, tables 1 and 2.
    ("hybrid-0.5", "mono", MONO_AP),
    ("hybrid-0.5", "cross-rows", CROSS_AP),
    ("hybrid-0.5", "cross-rows", MULTI_AP),
    ("hybrid-0.5", "cross-rows", DISTANCE),
    ("cross-rows", "mono", DISTANCE),
    # What it rests on: each pure policy is better at its own.
    ("mono", "cross-rows", MONO_AP),
    ("cross-rows", "mono", CROSS_AP),
    ("hybrid-0.5", "mono", MULTI_AP),
)


@dataclass(frozen=True)
class System:
    """Runs that differ by their seeds alone, judged alike."""

    name: str
    group: tuple[Evidence, ...]

    @cached_property
    def mean(self) -> Evidence:
        return averaged(self.group, self.name)

    def estimate(self, figure: Figure) -> Estimate:
        return Estimate.of([each.verdict.settings[figure.setting][figure.measure] for each in self.group])

    def shown(self, figure: Figure) -> str:
        """`.612 ± .004`."""
        estimate = self.estimate(figure)
        half = "" if estimate.half is None else f" ± {figure.text(estimate.half)}"
        return figure.text(estimate.mean) + half


def find_systems(runs: Path, variant: str = "+bf16") -> dict[str, System]:
    """Name → system, of all runs that were judged on XQuAD-R; a fix of the vectors makes another system."""
    found: dict[str, list[Evidence]] = {}
    words = runs.glob("bm25/verdicts/xquad-r/verdict.json")  # Of which there is no other precision.
    for path in sorted([*runs.glob(f"*/verdicts/xquad-r*{variant}/verdict.json"), *words]):
        name = re.sub(r"-seed\d+$", "", path.parts[-4])
        fix = path.parts[-2].removeprefix("xquad-r").removesuffix(variant)
        found.setdefault(name + fix, []).append(Evidence.load(path))
    return {name: System(name, tuple(group)) for name, group in found.items()}


class Comparisons:
    """Differences of two systems, each computed once."""

    def __init__(self, systems: Mapping[str, System]) -> None:
        self._systems = systems
        self._known: dict[tuple[str, str, str], list[Difference]] = {}

    def of(self, a: str, b: str, figure: Figure) -> Difference:
        """a minus b over all queries, each the mean over seeds."""
        key = (a, b, figure.measure)
        if key not in self._known:
            tables = [self._systems[name].mean.queries for name in (a, b)]
            self._known[key] = compare_systems(*tables, figure.measure)  # type: ignore[arg-type]
        return next(each for each in self._known[key] if each.setting == figure.setting and not each.language)

    def over_seeds(self, a: str, b: str, figure: Figure) -> tuple[float, float] | None:
        """Welch's interval of the difference of means over seeds."""
        one, two = (self._systems[name].estimate(figure).values for name in (a, b))
        if min(len(one), len(two)) < 2:
            return None
        interval = stats.ttest_ind(one, two, equal_var=False).confidence_interval(CONFIDENCE)
        return float(interval.low), float(interval.high)


def policies_table(systems: Mapping[str, System], names: Iterable[str]) -> str:
    rows = [
        [name, str(len(systems[name].group)), *(systems[name].shown(figure) for figure in FIGURES)]
        for name in names
        if name in systems
    ]
    return table(["system", "seeds", *(f.title + (" ↑" if f.higher else " ↓") for f in FIGURES)], rows)


def claims_table(systems: Mapping[str, System], comparisons: Comparisons) -> str:
    """Each claim with both of its tests: other questions, and other seeds."""
    claims = [claim for claim in CLAIMS if claim[0] in systems and claim[1] in systems]
    found = [comparisons.of(*claim) for claim in claims]
    rows = []
    for (a, b, figure), difference, p in zip(claims, found, holm([each.p for each in found]).tolist(), strict=True):
        seeds = comparisons.over_seeds(a, b, figure)
        sign = 1 if figure.higher else -1
        rows.append([
            f"{a} {'>' if figure.higher else '<'} {b} by {figure.title}",
            signed(difference.difference, figure),
            f"[{signed(difference.low, figure)}, {signed(difference.high, figure)}]",
            f"{p:.4f}" if p >= 1e-4 else "< .0001",
            f"[{signed(seeds[0], figure)}, {signed(seeds[1], figure)}]" if seeds else "–",
            decided(sign * difference.difference, p, seeds),
        ])  # fmt: skip
    return table(["claim", "difference", "over questions, 95 %", "p (Holm)", "over seeds, 95 %", "outcome"], rows)


def decided(gain: float, p: float, seeds: tuple[float, float] | None) -> str:
    """Only what both other questions and other seeds would show again is decided."""
    if p >= 1 - CONFIDENCE or seeds is None or seeds[0] <= 0 <= seeds[1]:
        return "undecided"
    return "confirmed" if gain > 0 else "refuted"


def against_table(systems: Mapping[str, System], comparisons: Comparisons, names: Sequence[str], to: str) -> str:
    """What each changes beside one system, which comes first as it is; stars where both tests agree, Holm over all."""
    there = [name for name in names if name in systems and name != to]
    cells = [(name, figure, comparisons.of(name, to, figure)) for name in there for figure in FIGURES]
    corrected = holm([difference.p for *_, difference in cells]).tolist()
    rows: dict[str, list[str]] = {name: [name, str(len(systems[name].group))] for name in there}
    for (name, figure, difference), p in zip(cells, corrected, strict=True):
        sure = decided(1, p, comparisons.over_seeds(name, to, figure)) == "confirmed"
        rows[name].append(signed(difference.difference, figure) + (" *" if sure else ""))
    itself = [to, str(len(systems[to].group)), *(systems[to].shown(figure) for figure in FIGURES)]
    heads = [f"minus {to}", "seeds", *(f.title + (" ↑" if f.higher else " ↓") for f in FIGURES)]
    return table(heads, [itself, *rows.values()])


def kinship_table(systems: Mapping[str, System], names: Sequence[str]) -> str:
    """AP by what two languages share, and by whether they were trained on."""

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
        verdict = systems[name].mean.verdict
        pairs = [(a, b, found["AP"]) for a, row in verdict.pairs.items() for b, found in row.items()]
        cells = [mean([value for a, b, value in pairs if fits(a, b)]) for fits in classes.values()]
        pool = [mean([row["AP"] for a, row in verdict.pool.items() if unseen(a) == which]) for which in (0, 1)]
        rows.append([name, *(MONO_AP.text(cell) for cell in [*cells, *pool])])
    return table(["AP", *classes, "multi, seen", "unseen"], rows)


def others_table(runs: Path) -> str:
    """The first seed on Tatoeba and SciFact."""
    measures = {"tatoeba-xtreme": ("R@1", "MarginR@1"), "scifact": ("nDCG@10", "R@100")}
    rows: dict[str, dict[str, str]] = {}
    for task, names in measures.items():
        for path in sorted(runs.glob(f"*/verdicts/{task}+bf16/verdict.json")):
            verdict = Evidence.load(path).verdict
            (setting,) = verdict.settings.values()
            rows.setdefault(path.parts[-4], {}).update({name: MONO_AP.text(setting[name]) for name in names})
    columns = [name for names in measures.values() for name in names]
    heads = ["system", "Tatoeba R@1", "by margin", "SciFact nDCG@10", "R@100"]
    return table(heads, [[run, *(cells.get(name, "–") for name in columns)] for run, cells in sorted(rows.items())])


def write_csv(path: Path, systems: Mapping[str, System], parts: Collection[str]) -> None:
    """Each run of these parts by itself; rows of other parts stay."""
    heads = ["part", "system", "run", *(figure.title for figure in FIGURES)]
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in list(csv.reader(file))[1:] if row[0] not in parts]
    for part in parts:
        for name in (name for name in PARTS[part] if name in systems):
            for each in systems[name].group:
                values = [each.verdict.settings[figure.setting][figure.measure] for figure in FIGURES]
                rows.append([part, name, each.verdict.model, *(f"{value:.6f}" for value in values)])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *sorted(rows)])


def signed(value: float, figure: Figure) -> str:
    return ("−" if value < 0 else "+") + figure.text(abs(value))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def fill(page: Path, tables: Mapping[str, str]) -> None:
    """Put the tables between their marks, `<!-- NAME -->` and `<!-- /NAME -->`, as far as the page has them."""
    text = page.read_text(encoding="utf-8")
    for name, found in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = head + begin + found + "\n" + rest[rest.index(end) :]
    page.write_text(text, encoding="utf-8")


def arguments(description: str | None) -> argparse.Namespace:
    """Those of this script and of figures.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    options.part = options.part or list(PARTS)
    return options


def main() -> None:
    options = arguments(__doc__)
    systems = find_systems(options.runs)
    comparisons = Comparisons(systems)
    tables: dict[str, str] = {}
    if "policies" in options.part:
        tables["policies"] = policies_table(systems, POLICIES)
        tables["claims"] = claims_table(systems, comparisons)
        tables["kinship"] = kinship_table(systems, POLICIES)
    if "methods" in options.part:
        tables["methods"] = against_table(systems, comparisons, METHODS, "hybrid-0.5")
        tables["others"] = others_table(options.runs)
    for name, found in tables.items():
        print(f"\n{name}\n\n{found}")
    for page in (options.docs / "study.md", options.docs.parent / "README.md"):
        fill(page, tables)
    write_csv(options.docs / "study.csv", systems, options.part)


if __name__ == "__main__":
    main()
