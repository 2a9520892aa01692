"""What the runs of recipes.sh found: tables from their verdicts, into docs/study.md.

    python benchmarks/study/results.py [--part NAME …] [--runs runs/study] [--docs docs]

Every table of the page, and the headline in the README, stands between two marks with its name and is written there;
`docs/study.csv` has each run by itself. figures.py draws them. All runs of a part are made on one machine, as another
processor adds up in another order; a part that is not named stays as it is.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
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
TRAINED = (
    "mono", "hybrid-0.5", "cross-rows",
    "hybrid+erasure-30", "hybrid+alignment-30", "hybrid+lakda-1", "mono+alignment-30", "mono+lakda-1",
)  # fmt: skip
FIXES = ("centering", "lir", "shift")
METHODS = (
    *TRAINED,
    *(f"{base}+{fix}" for base in ("untrained", *TRAINED) for fix in FIXES),
)
FURTHER = (
    "mono", "hybrid-0.5", "cross-rows",
    "hybrid-batch-16", "hybrid-batch-64", "hybrid-batch-160", "hybrid-batch-480",
    "hybrid+negatives", "hybrid+lora",
    "mono-rate-3e-5", "hybrid-rate-3e-5", "cross-rate-3e-5", "mono-rate-3e-4", "hybrid-rate-3e-4", "cross-rate-3e-4",
    "mono-600-steps", "hybrid-600-steps", "cross-600-steps",
    "untrained-12-layers", "mono-12-layers", "hybrid-12-layers", "cross-12-layers", "mono+lakda-12-layers",
)  # fmt: skip
PARTS = {"policies": POLICIES, "methods": METHODS, "further": FURTHER}
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
    group: Mapping[str, Evidence]
    """By seed; what was not trained has one, of no name."""

    @cached_property
    def mean(self) -> Evidence:
        return averaged(tuple(self.group.values()), self.name)

    def values(self, figure: Figure) -> dict[str, float]:
        """By seed."""
        return {seed: each.verdict.settings[figure.setting][figure.measure] for seed, each in self.group.items()}

    def only(self, seeds: Collection[str]) -> System:
        return System(self.name, {seed: each for seed, each in self.group.items() if seed in seeds})

    def estimate(self, figure: Figure) -> Estimate:
        return Estimate.of(list(self.values(figure).values()))

    def shown(self, figure: Figure) -> str:
        """`.612 ± .004`; of two seeds Student's interval is nearly as wide as the scale, and says nothing."""
        estimate = self.estimate(figure)
        half = "" if estimate.half is None or len(self.group) < 3 else f" ± {figure.text(estimate.half)}"
        return figure.text(estimate.mean) + half


def find_systems(runs: Path) -> dict[str, System]:
    """Name → system, of all runs that were judged on XQuAD-R; a fix of the vectors makes another system."""
    found: dict[str, dict[str, Evidence]] = {}
    for path in sorted(runs.glob("*/verdicts/xquad-r*/verdict.json")):
        name, _, seed = path.parts[-4].partition("-seed")
        fix = path.parts[-2].removeprefix("xquad-r")
        found.setdefault(name + fix, {})[seed] = Evidence.load(path)
    return {name: System(name, group) for name, group in found.items()}


class Comparisons:
    """Differences of two systems, each computed once, over the seeds that both have: these mean the same batches."""

    def __init__(self, systems: Mapping[str, System]) -> None:
        self._systems = systems
        self._known: dict[tuple[str, str, str], list[Difference]] = {}

    def of(self, a: str, b: str, figure: Figure) -> Difference:
        """a minus b over all queries, each the mean over seeds."""
        key = (a, b, figure.measure)
        if key not in self._known:
            tables = [system.mean.queries for system in self._paired(a, b)]
            self._known[key] = compare_systems(*tables, figure.measure)  # type: ignore[arg-type]
        return next(each for each in self._known[key] if each.setting == figure.setting and not each.language)

    def over_seeds(self, a: str, b: str, figure: Figure) -> tuple[float, float] | None:
        """Welch's interval of the difference of means over seeds."""
        samples = [list(self._systems[name].values(figure).values()) for name in (a, b)]
        if min(map(len, samples)) < 2:
            return None
        interval = stats.ttest_ind(*samples, equal_var=False).confidence_interval(CONFIDENCE)
        return float(interval.low), float(interval.high)

    def every_seed(self, a: str, b: str, figure: Figure) -> bool:
        """Whether the difference has the same sign for each seed."""
        one, two = (system.values(figure) for system in self._paired(a, b))
        pairs = (
            [(one[seed], two[seed]) for seed in one]
            if one.keys() == two.keys()
            else product(one.values(), two.values())
        )
        return len({x > y for x, y in pairs}) == 1

    def _paired(self, a: str, b: str) -> tuple[System, System]:
        one, two = self._systems[a], self._systems[b]
        common = one.group.keys() & two.group.keys()
        return (one.only(common), two.only(common)) if common else (one, two)


def plain_table(systems: Mapping[str, System], names: Iterable[str]) -> str:
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
    """What each changes beside one system, which comes first as it is; stars where questions (Holm over all) and every
    seed say so."""
    there = [name for name in names if name in systems and name != to]
    cells = [(name, figure, comparisons.of(name, to, figure)) for name in there for figure in FIGURES]
    corrected = holm([difference.p for *_, difference in cells]).tolist()
    rows: dict[str, list[str]] = {name: [name, str(len(systems[name].group))] for name in there}
    for (name, figure, difference), p in zip(cells, corrected, strict=True):
        sure = p < 1 - CONFIDENCE and comparisons.every_seed(name, to, figure)
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
        for path in sorted(runs.glob(f"*/verdicts/{task}/verdict.json")):
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
            for each in systems[name].group.values():
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
        tables["policies"] = plain_table(systems, POLICIES)
        tables["claims"] = claims_table(systems, comparisons)
        tables["kinship"] = kinship_table(systems, POLICIES)
    if "methods" in options.part:
        tables["methods"] = against_table(systems, comparisons, METHODS, "hybrid-0.5")
    if "further" in options.part:
        tables["further"] = plain_table(systems, FURTHER)
        tables["others"] = others_table(options.runs)
    for name, found in tables.items():
        print(f"\n{name}\n\n{found}")
    for page in (options.docs / "study.md", options.docs.parent / "README.md"):
        fill(page, tables)
    write_csv(options.docs / "study.csv", systems, options.part)


if __name__ == "__main__":
    main()
