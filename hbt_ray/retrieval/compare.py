"""Results on one task side by side: columns, the headline table, and means over training seeds.

`Column` says which measures are shown and how their values are written, in the order of the tables of 2408.10536.
`compare` groups results by task into `Comparison`s, which the HTML report and the terminal both read, so that they
cannot disagree. Numbers are compared as they are shown: equal text shares the mark of the best, and every difference
adds up on the page.

`mean_over_seeds` turns results of models that differ in their training seeds into one result of a mean system. Scores
of queries are averaged too, so a test over queries compares mean systems: it says whether other questions would tell
the two apart. The interval over seeds says how far a mean would move with other batches and initial weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.bias import MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION, SHARE_DISTANCE
from hbt_ray.retrieval.measures import RANK_DISTANCE
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, Artifacts, EvaluationResult
from hbt_ray.retrieval.significance import CONFIDENCE, ROW_KEYS, SeedInterval, with_task_fingerprint

MISSING = "–"
_LABELS = {
    RANK_DISTANCE: "rank distance",
    MAX_RANK: "worst rank",
    OWN_LANGUAGE_FIRST: "own language first",
    SHARE_DISTANCE: "share distance",
    RANK_CORRELATION: "agreement",
}
"""Labels of measures of language bias. Only the pool has these, so a column needs no setting in its name."""


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
        """Whether smaller values are better."""
        return self.counts_ranks or self.measure == SHARE_DISTANCE

    @property
    def has_better(self) -> bool:
        """Whether values can be better or worse. Users may well want the answer in their language first."""
        return self.measure != OWN_LANGUAGE_FIRST

    @property
    def label(self) -> str:
        """The measure's name to show."""
        return _LABELS.get(self.measure, self.measure)

    @property
    def short_setting(self) -> str:
        """For narrow places: `mono`, `cross`, `multi`."""
        return {MONOLINGUAL: "mono", CROSS_LINGUAL: "cross", MULTILINGUAL: "multi"}.get(self.setting, self.setting)

    @property
    def name(self) -> str:
        """Setting and label, or the label alone for measures that only the pool has."""
        return self.label if self.measure in _LABELS else f"{self.setting} {self.label}"

    def of(self, measures: Mapping[str, float]) -> float | None:
        """The value among measures, rounded as it is shown: three decimals, or whole ranks; None if it is missing."""
        value = measures.get(self.measure)
        if value is None or not math.isfinite(value):
            return None
        return round(value, 0 if self.counts_ranks else 3) + 0.0

    def value(self, result: EvaluationResult) -> float | None:
        """The value of a result, rounded as it is shown; None if it is missing."""
        return self.of(result.settings.get(self.setting, {}))

    def text(self, value: float | None) -> str:
        """`.797`, `2,310`; a negative number gets a true minus sign."""
        if value is None:
            return MISSING
        digits = f"{abs(value):,.0f}" if self.counts_ranks else f"{abs(value):.3f}".removeprefix("0")
        return f"−{digits}" if value < 0 else digits

    def signed(self, difference: float | None) -> str:
        """`+.012`, `−84`, `±.000`."""
        if difference is None:
            return MISSING
        return ("+" if difference > 0 else "±" if difference == 0 else "") + self.text(difference)

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


def mean_over_seeds(group: Sequence[Artifacts], model: str) -> Artifacts:
    """The mean of results on one task, of models that differ in their training seeds.

    Args:
        model: name of the mean system.

    Raises:
        TaskError: the results are not on the same questions and documents.
    """
    first = group[0].result
    for artifacts in group[1:]:
        for field in ("task", "task_fingerprint", "languages", "num_queries", "num_documents"):
            if getattr(artifacts.result, field) != getattr(first, field):
                raise TaskError(
                    f"{artifacts.folder}: has other {field} than {group[0].folder}, so they have no mean; evaluate "
                    "both again on the same task",
                    code="OTHER_TASK",
                )
    means = {
        name: _mean([getattr(each.result, name) for each in group])
        for name in ("settings", "pairs", "pool", "language_share", "seconds")
    }
    seed_values = {
        setting: {name: [each.result.settings[setting][name] for each in group] for name in measures}
        for setting, measures in means["settings"].items()
    }
    memory = max(each.result.peak_memory_bytes for each in group)
    changes = {**means, "model": model, "seed_values": seed_values, "peak_memory_bytes": memory}
    return _Mean(first.model_copy(update=changes), group[0].folder, tuple(group))


@dataclass(frozen=True)
class _Mean(Artifacts):
    """The mean of a group. The table of failures is that of the first seed."""

    group: tuple[Artifacts, ...]

    @cached_property
    def queries(self) -> pa.Table | None:
        tables = [table for each in self.group if (table := each.queries) is not None]
        if len(tables) < len(self.group):
            return None
        names = [name for name in tables[0].column_names if name not in ROW_KEYS]
        stacked = pa.concat_tables([table.select([*ROW_KEYS, *names]) for table in tables])
        means = stacked.group_by(ROW_KEYS).aggregate([(name, "mean") for name in names])
        means = means.rename_columns([name.removesuffix("_mean") for name in means.column_names])
        return with_task_fingerprint(means, self.result.task_fingerprint)


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of the values of each key that all mappings have."""
    if not isinstance(values[0], Mapping):
        return sum(values) / len(values)
    return {key: _mean([each[key] for each in values]) for key in values[0] if all(key in each for each in values)}


SEEDS_NOTE = f"±: half of the {CONFIDENCE:.0%} interval of the mean over seeds"
Baseline = EvaluationResult | Sequence[EvaluationResult] | None


@dataclass(frozen=True)
class TableCell:
    """A value and its difference to the baseline."""

    value: float | None
    text: str
    spread: str = ""
    """Half of the interval over seeds, for a mean over seeds."""
    change: str = ""
    better: bool | None = None
    """Whether it is better than the baseline; None if both look the same or there is no baseline."""
    best: bool = False
    """Whether it is the best of its column."""


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
        """The system that the others are compared with; None if there is none."""
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
        """The task's own measures, or `COLUMNS`, that have a value; a setting without any of them shows all it has."""
        shown: list[Column] = []
        headline = dict.fromkeys(name for system in self.systems for name in system.result.headline)
        for setting in (MONOLINGUAL, CROSS_LINGUAL, MULTILINGUAL):
            default = [Column(setting, name) for name in headline] or [c for c in COLUMNS if c.setting == setting]
            present = [c for c in default if any(c.value(s.result) is not None for s in self.systems)]
            names = dict.fromkeys(name for s in self.systems for name in s.result.settings.get(setting, {}))
            shown += present or [Column(setting, name) for name in names]
        return tuple(shown)

    def row(self, column: Column, of: Mapping[str, Mapping[str, float]]) -> list[TableCell]:
        """One cell per system; `of` maps a system's label to its measures."""
        values = [column.of(of[system.label]) for system in self.systems]
        comparable = column.has_better and sum(value is not None for value in values) > 1
        best = column.best(values) if comparable else None
        reference = values[0] if self.baseline else None
        return [
            self._cell(column, value, None if system.is_baseline else reference, best)
            for system, value in zip(self.systems, values, strict=True)
        ]

    def _cell(self, column: Column, value: float | None, reference: float | None, best: float | None) -> TableCell:
        change, better = "", None
        if value is not None and reference is not None:
            difference = column.of({column.measure: value - reference}) or 0.0
            change = column.signed(difference)
            better = column.is_better(value, reference) if column.has_better and value != reference else None
        return TableCell(value, column.text(value), "", change, better, best is not None and value == best)

    @cached_property
    def headline(self) -> tuple[tuple[System, tuple[TableCell, ...]], ...]:
        """Each system with one cell per column."""
        by_column = [self._with_spread(column) for column in self.columns]
        return tuple((system, tuple(row[i] for row in by_column)) for i, system in enumerate(self.systems))

    def _with_spread(self, column: Column) -> list[TableCell]:
        row = self.row(column, {s.label: s.result.settings.get(column.setting, {}) for s in self.systems})
        return [replace(cell, spread=_spread(column, s.result)) for s, cell in zip(self.systems, row, strict=True)]


def _spread(column: Column, result: EvaluationResult) -> str:
    values = result.seed_values.get(column.setting, {}).get(column.measure, [])
    half = SeedInterval.of(values).half if values else None
    return "" if half is None else f"±{column.text(half)}"


def compare(results: Sequence[EvaluationResult], baseline: Baseline = None) -> list[Comparison]:
    """One comparison per task, in the order in which the tasks first occur.

    Results on tasks of one name but with different queries, documents or judgements are not compared. Each has its own
    comparison, with a part of the task's fingerprint in the name.

    Raises:
        TaskError: there is nothing to compare, or a baseline was evaluated on a task that no result has.
    """
    if not results:
        raise TaskError("there is no result to show; run `hbt evaluate MODEL --task NAME=DIR` first", code="NO_RESULT")
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
    candidates = [result for result in results if result != baseline]
    if not candidates:
        raise TaskError(
            f"the only result on {task} is the baseline itself; give another result, or no baseline", code="NO_RESULT"
        )
    ordered = [baseline, *candidates] if baseline else candidates
    names = Counter(result.model for result in ordered)
    labels: Counter[str] = Counter()
    systems = []
    for result in ordered:
        label = result.model if names[result.model] == 1 else f"{result.model} ({result.fingerprint[:7]})"
        labels[label] += 1
        label = label if labels[label] == 1 else f"{label} #{labels[label]}"
        systems.append(System(label, result, result is baseline))
    return Comparison(task, tuple(systems))


def headline_table(results: Sequence[EvaluationResult], baseline: Baseline = None) -> Table:
    """The headline table for the terminal: the best of each column is bold, the difference to the baseline is dim."""
    comparisons = compare(results, baseline)
    columns = list(dict.fromkeys(column for comparison in comparisons for column in comparison.columns))
    several = len(comparisons) > 1
    notes = [
        "↑ higher is better, ↓ lower is better",
        *(["below: difference to the baseline"] if baseline else []),
        *([SEEDS_NOTE] if any(comparison.has_seeds for comparison in comparisons) else []),
    ]
    table = Table(
        title="retrieval quality" if several else f"{comparisons[0].task}: retrieval quality",
        caption="; ".join(notes),
        box=SIMPLE_HEAD,
    )
    table.add_column("system", overflow="fold", min_width=10)
    for column in columns:
        arrow = "↓" if column.lower_is_better else "↑"
        words = column.label.replace(" ", "\n")
        table.add_column(
            f"{column.short_setting}\n{words} {arrow}", justify="right", vertical="top", no_wrap=True, min_width=6
        )
    for comparison in comparisons:
        if several:
            table.add_row(Text(comparison.task, style="italic"))
        for system, cells in comparison.headline:
            shown = dict(zip(comparison.columns, cells, strict=True))
            name = Text(system.label) + Text(" (baseline)" if system.is_baseline else "", style="dim")
            table.add_row(name, *(_terminal(shown.get(column)) for column in columns))
        table.add_section()
    return table


def _terminal(cell: TableCell | None) -> Text:
    if cell is None:
        return Text(MISSING, style="dim")
    text = Text(cell.text, style="bold" if cell.best else "")
    if cell.spread:
        text.append(f"\n{cell.spread}", style="dim")
    if cell.change:
        text.append(f"\n{cell.change}", style={True: "green", False: "red", None: "dim"}[cell.better])
    return text
