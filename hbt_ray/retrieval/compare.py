"""Results on one task side by side: columns, and values with their differences to a baseline.

`COLUMNS` lists the measures in the order of the tables of 2408.10536, and `Column` formats their values. `compare`
groups results by task into `Comparison`s, which the HTML report and the terminal both read, so that they cannot
disagree. Numbers are rounded before they are compared: systems with equal text share the mark of the best, and every
difference adds up on the page.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.bias import MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION, SHARE_DISTANCE
from hbt_ray.retrieval.measures import RANK_DISTANCE
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, EvaluationResult
from hbt_ray.retrieval.significance import CONFIDENCE, SeedInterval

MISSING = "–"
SEEDS_NOTE = f"±: half of the {CONFIDENCE:.0%} interval of the mean over seeds"
_LABELS = {
    RANK_DISTANCE: "rank distance",
    MAX_RANK: "worst rank",
    OWN_LANGUAGE_FIRST: "own language first",
    SHARE_DISTANCE: "share distance",
    RANK_CORRELATION: "agreement",
}
"""Labels of the measures of language bias. Only the pool has them, so a column's name leaves out the setting."""


@dataclass(frozen=True)
class Column:
    """One measure in one setting."""

    setting: str
    measure: str

    @property
    def counts_ranks(self) -> bool:
        """Whether values are ranks: whole numbers without an upper bound."""
        return self.measure in (RANK_DISTANCE, MAX_RANK)

    @property
    def lower_is_better(self) -> bool:
        return self.counts_ranks or self.measure == SHARE_DISTANCE

    @property
    def has_better(self) -> bool:
        """Whether one value is better than another; not for `OWN_LANGUAGE_FIRST`, which some users want high."""
        return self.measure != OWN_LANGUAGE_FIRST

    @property
    def label(self) -> str:
        return _LABELS.get(self.measure, self.measure)

    @property
    def name(self) -> str:
        """Setting and label, or the label alone for measures that only the pool has."""
        return self.label if self.measure in _LABELS else f"{self.setting} {self.label}"

    def round(self, value: float | None) -> float | None:
        """A value as it is shown: three decimals, or whole ranks; None if it is missing or not finite."""
        if value is None or not math.isfinite(value):
            return None
        return round(value, 0 if self.counts_ranks else 3) + 0.0  # Adding 0 turns -0.0 into 0.0.

    def value(self, result: EvaluationResult) -> float | None:
        """The rounded value of a result; None if it is missing."""
        return self.round(result.settings.get(self.setting, {}).get(self.measure))

    def text(self, value: float | None) -> str:
        """`.797`, `2,310`; a negative number gets a true minus sign."""
        if value is None:
            return MISSING
        digits = f"{abs(value):,.0f}" if self.counts_ranks else f"{abs(value):.3f}".removeprefix("0")
        return f"−{digits}" if value < 0 else digits

    def signed(self, difference: float | None) -> str:
        """`+.012`, `−84`, `±.000`."""
        sign = "" if difference is None or difference < 0 else "+" if difference else "±"
        return sign + self.text(difference)

    def is_better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value < other if self.lower_is_better else value > other

    def best(self, values: Iterable[float | None]) -> float | None:
        """The best value; None if all are missing."""
        known = [value for value in values if value is not None]
        return (min if self.lower_is_better else max)(known, default=None)


COLUMNS = (
    Column(MONOLINGUAL, "AP"),
    Column(MONOLINGUAL, "R@1"),
    Column(CROSS_LINGUAL, "AP"),
    Column(CROSS_LINGUAL, "R@1"),
    Column(MULTILINGUAL, "AP"),
    Column(MULTILINGUAL, "R@10"),
    Column(MULTILINGUAL, RANK_DISTANCE),
)
Baseline = EvaluationResult | Sequence[EvaluationResult] | None


@dataclass(frozen=True)
class TableCell:
    """A value of one system in one column, and its difference to the baseline."""

    value: float | None
    text: str
    spread: str = ""
    """Half of the interval over seeds, such as `±.012`; empty unless the value is a mean over seeds."""
    change: str = ""
    better: bool | None = None
    """Whether the value is better than the baseline; None if both are shown alike or there is no baseline."""
    best: bool = False
    """Whether the value is the best of its column."""


@dataclass(frozen=True)
class System:
    """One result of a comparison."""

    label: str
    """The model's name, made unique within the comparison."""
    result: EvaluationResult
    is_baseline: bool = False


@dataclass(frozen=True)
class Comparison:
    """All systems that were evaluated on one task, the baseline first."""

    task: str
    """The task's name, with a part of its fingerprint if several tasks have that name."""
    systems: tuple[System, ...]

    @property
    def baseline(self) -> System | None:
        return self.systems[0] if self.systems[0].is_baseline else None

    @property
    def candidates(self) -> tuple[System, ...]:
        """All systems but the baseline."""
        return tuple(system for system in self.systems if not system.is_baseline)

    @property
    def has_seeds(self) -> bool:
        """Whether any system is a mean over seeds."""
        return any(system.result.seed_values for system in self.systems)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Columns with a value: the task's own measures, else `COLUMNS`, else all measures that the setting has."""
        results = [system.result for system in self.systems]
        headline = dict.fromkeys(name for result in results for name in result.headline)
        shown: list[Column] = []
        for setting in (MONOLINGUAL, CROSS_LINGUAL, MULTILINGUAL):
            default = [Column(setting, name) for name in headline] or [c for c in COLUMNS if c.setting == setting]
            present = [column for column in default if any(column.value(result) is not None for result in results)]
            names = dict.fromkeys(name for result in results for name in result.settings.get(setting, {}))
            shown += present or [Column(setting, name) for name in names]
        return tuple(shown)

    def row(self, column: Column, values: Sequence[float | None]) -> list[TableCell]:
        """One cell per system, from the value of each system."""
        rounded = [column.round(value) for value in values]
        # A best value needs something to compare it with.
        comparable = column.has_better and sum(value is not None for value in rounded) > 1
        best = column.best(rounded) if comparable else None
        cells = []
        for system, value in zip(self.systems, rounded, strict=True):
            cell = TableCell(value, column.text(value), best=best is not None and value == best)
            # The baseline is always the first system.
            reference = rounded[0] if self.baseline and not system.is_baseline else None
            if value is not None and reference is not None:
                better = column.is_better(value, reference) if column.has_better and value != reference else None
                # The difference of the rounded values, so that it adds up on the page.
                cell = replace(cell, change=column.signed(column.round(value - reference)), better=better)
            cells.append(cell)
        return cells

    @cached_property
    def headline(self) -> tuple[tuple[System, tuple[TableCell, ...]], ...]:
        """Each system with one cell per column."""
        by_column = []
        for column in self.columns:
            cells = self.row(column, [column.value(system.result) for system in self.systems])
            spreads = [_spread(column, system.result) for system in self.systems]
            by_column.append([replace(cell, spread=each) for cell, each in zip(cells, spreads, strict=True)])
        # Transpose [column][system] to [system][column].
        return tuple((system, tuple(row[i] for row in by_column)) for i, system in enumerate(self.systems))


def _spread(column: Column, result: EvaluationResult) -> str:
    values = result.seed_values.get(column.setting, {}).get(column.measure, [])
    half = SeedInterval.from_values(values).half_width if values else None
    return "" if half is None else f"±{column.text(half)}"


def compare(results: Sequence[EvaluationResult], baseline: Baseline = None) -> list[Comparison]:
    """One comparison per task, in the order in which the tasks first occur.

    Results on tasks with one name but different queries, documents or judgements are not compared: each such task has
    its own comparison, with a part of its fingerprint in the name.

    Raises:
        TaskError: there is no result besides the baseline, or a baseline is on a task that no result has.
    """
    if not results:
        raise TaskError("there is no result to show; run `hbt evaluate MODEL --task NAME=DIR` first", code="NO_RESULTS")
    baselines = {v.data: v for v in ([baseline] if isinstance(baseline, EvaluationResult) else baseline or ())}
    groups: dict[tuple[str, str], list[EvaluationResult]] = {}
    for result in results:
        groups.setdefault(result.data, []).append(result)
    if unmatched := sorted(baselines.keys() - groups.keys()):
        known = {task for task, _ in groups}
        other = "other queries, documents or judgements of that task" if unmatched[0][0] in known else ", ".join(known)
        raise TaskError(
            f"the baseline was evaluated on {unmatched[0][0]}, the results on {other}, so no difference can be shown; "
            "evaluate the baseline on the same task, or leave it out",
            code="OTHER_TASK",
        )
    names = Counter(task for task, _ in groups)
    return [
        _comparison(task if names[task] == 1 else f"{task} (data {data[:7]})", group, baselines.get((task, data)))
        for (task, data), group in groups.items()
    ]


def _comparison(task: str, results: Sequence[EvaluationResult], baseline: EvaluationResult | None) -> Comparison:
    # By content: the baseline may be among the results, loaded a second time.
    candidates = [result for result in results if result != baseline]
    if not candidates:
        raise TaskError(
            f"the only result on {task} is the baseline itself; give another result, or no baseline", code="NO_RESULTS"
        )
    ordered = [baseline, *candidates] if baseline else candidates
    names = Counter(result.model for result in ordered)
    labels: Counter[str] = Counter()
    systems = []
    for result in ordered:
        label = result.model if names[result.model] == 1 else f"{result.model} ({result.fingerprint[:7]})"
        labels[label] += 1  # Model and fingerprint may be equal too; a number then tells results apart.
        label = label if labels[label] == 1 else f"{label} #{labels[label]}"
        systems.append(System(label, result, result is baseline))
    return Comparison(task, tuple(systems))
