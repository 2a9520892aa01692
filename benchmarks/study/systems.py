"""The systems that the study compares, the figures by which it does, and the differences between two systems."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from scipy import stats

from hbt_ray.retrieval.result import EvaluationResult, mean_over_seeds
from hbt_ray.retrieval.significance import CONFIDENCE, Difference, SeedInterval, compare_systems

MONO, CROSS, MULTI = "monolingual", "cross-lingual", "multilingual"
UNSEEN = ("ar", "hi", "th")
"""Languages of XQuAD-R that no run trains on; the encoder was pretrained on them."""


@dataclass(frozen=True)
class Figure:
    """One of the four figures by which systems are compared."""

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
    "untrained",
    *TRAINED,
    *(f"{base}+{fix}" for base in ("untrained", *TRAINED) for fix in FIXES),
)
FURTHER = (
    "hybrid-0.5",
    "hybrid-batch-16", "hybrid-batch-64", "hybrid-batch-160", "hybrid-batch-480",
    "hybrid+negatives", "hybrid+lora",
    "mono-rate-3e-5", "hybrid-rate-3e-5", "cross-rate-3e-5", "mono-rate-3e-4", "hybrid-rate-3e-4", "cross-rate-3e-4",
    "mono-600-steps", "hybrid-600-steps", "cross-600-steps",
    "mono-cold", "hybrid-cold", "cross-cold",
)  # fmt: skip
HALF = {"mono": "mono", "hybrid": "hybrid-0.5", "cross": "cross-rows"}
WHOLE = {policy: f"{policy}-12-layers-cold" for policy in HALF}
"""Policy → system, of the half encoder and of the whole one."""
WHOLE_TRAINED = (
    *WHOLE.values(),
    *(f"{name}-12-layers-cold" for name in ("hybrid+erasure", "hybrid+alignment", "hybrid+lakda", "mono+lakda")),
)
WHOLE_METHODS = (
    "untrained-12-layers",
    *WHOLE_TRAINED,
    *(f"{name}-12-layers-cold" for name in ("cross+lakda", "hybrid-0.75", "hybrid-0.25")),
    *(f"{base}+{fix}" for base in ("untrained-12-layers", *WHOLE_TRAINED) for fix in FIXES),
)
WHOLE_ACROSS = tuple(
    f"{name}-12-layers-cold{fix}"
    for name in ("hybrid", "hybrid+lakda", "cross", "cross+lakda")
    for fix in ("", "+shift")
)
"""Systems that are compared with cross-lingual batches, the best policy across languages."""
SETTINGS = (
    *WHOLE.values(),
    *(f"{name}-12-layers-rate-3e-5" for name in ("hybrid", "mono", "cross", "mono+lakda")),
    "hybrid-12-layers-rate-1e-5",
    *(f"{name}-12-layers" for name in ("hybrid", "mono", "cross", "mono+lakda")), "mono+lakda-12-layers+shift",
)  # fmt: skip
"""Rates and temperatures of the whole encoder."""
BF16 = "+bf16"
"""Suffix of the results that `hbt evaluate` computed in bf16."""
BESIDES = ("untrained", "mixed", "mono", "hybrid-0.5", "cross-rows", "mono+lakda-1")
WHOLE_BESIDES = ("untrained-12-layers", *(WHOLE[policy] for policy in HALF), "hybrid+lakda-12-layers-cold")
"""Systems that are evaluated on other tasks as well, and shown by language."""
PARTS = {"policies": POLICIES, "methods": METHODS, "further": FURTHER, "whole": WHOLE_METHODS, "settings": SETTINGS}
"""Part of the study → systems that are compared with one another."""


@dataclass(frozen=True)
class System:
    """Runs that differ only by their seed, evaluated in the same way."""

    name: str
    group: Mapping[str, EvaluationResult]
    """Seed → result; an untrained system has one result, with an empty seed."""

    @cached_property
    def mean(self) -> EvaluationResult:
        return mean_over_seeds(tuple(self.group.values()), self.name)

    def values(self, figure: Figure) -> dict[str, float]:
        """Seed → value."""
        return {seed: each.settings[figure.setting][figure.measure] for seed, each in self.group.items()}

    def only(self, seeds: Collection[str]) -> System:
        return System(self.name, {seed: each for seed, each in self.group.items() if seed in seeds})

    def estimate(self, figure: Figure) -> SeedInterval:
        return SeedInterval.from_values(list(self.values(figure).values()))

    def shown(self, figure: Figure) -> str:
        """`.612 ± .004`; without an interval for two seeds, since Student's is then nearly as wide as the scale."""
        estimate = self.estimate(figure)
        half = "" if estimate.half_width is None or len(self.group) < 3 else f" ± {figure.text(estimate.half_width)}"
        return figure.text(estimate.mean) + half


def find_systems(runs: Path) -> dict[str, System]:
    """Name → system, for all runs that were evaluated on XQuAD-R.

    A transform of the vectors makes another system; a precision does not: if a run was evaluated in two, bf16 counts.
    """
    found: dict[str, dict[str, EvaluationResult]] = {}
    for path in sorted(runs.glob("*/results/xquad-r*/result.json")):
        name, _, seed = path.parts[-4].partition("-seed")
        fix = path.parts[-2].removeprefix("xquad-r").removesuffix(BF16)
        found.setdefault(name + fix, {})[seed] = EvaluationResult.load(path)
    return {name: System(name, group) for name, group in found.items()}


class Comparisons:
    """Differences between two systems over the seeds that both have, whose batches are equal; each is computed once."""

    def __init__(self, systems: Mapping[str, System]) -> None:
        self._systems = systems
        self._known: dict[tuple[str, str, str], list[Difference]] = {}

    def of(self, a: str, b: str, figure: Figure) -> Difference:
        """The difference a minus b over all queries; the value of a query is the mean over seeds."""
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

    def seeds_agree(self, a: str, b: str, figure: Figure) -> bool:
        """Whether the difference holds over seeds.

        With three seeds or more Student's interval of the difference by seed must exclude 0. With fewer, or without
        seeds, all differences must have the same sign.
        """
        one, two = (system.values(figure) for system in self._paired(a, b))
        paired = one.keys() == two.keys()
        pairs = [(one[seed], two[seed]) for seed in one] if paired else product(one.values(), two.values())
        differences = [x - y for x, y in pairs]
        if not paired or len(differences) < 3:
            return len({difference > 0 for difference in differences}) == 1
        interval = stats.ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
        return bool(interval.low > 0 or interval.high < 0)

    def _paired(self, a: str, b: str) -> tuple[System, System]:
        one, two = self._systems[a], self._systems[b]
        common = one.group.keys() & two.group.keys()
        return (one.only(common), two.only(common)) if common else (one, two)
