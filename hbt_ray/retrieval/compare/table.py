"""The headline table: systems that were judged on one task, side by side.

The HTML report and the terminal both read `Comparison` and its columns, so that they cannot disagree. Numbers are
compared as they are shown: what looks equal shares the mark of the best, and every difference adds up on the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.compare.column import COLUMNS, MISSING, Column
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, EvaluationResult
from hbt_ray.retrieval.seed_interval import CONFIDENCE, SeedInterval

SEEDS_NOTE = f"±: half of the {CONFIDENCE:.0%} interval of the mean over seeds"
Baseline = EvaluationResult | Sequence[EvaluationResult] | None


@dataclass(frozen=True)
class TableCell:
    """A number with its difference to the baseline."""

    value: float | None
    text: str
    spread: str = ""
    """Half of the interval over seeds, where it is a mean over some."""
    change: str = ""
    better: bool | None = None
    """Against the baseline; None where both look the same or there is nothing to compare with."""
    best: bool = False


@dataclass(frozen=True)
class System:
    label: str
    result: EvaluationResult
    is_baseline: bool = False


@dataclass(frozen=True)
class Comparison:
    """All systems that were judged on one task, the baseline first."""

    task: str
    """The task's name, with a part of its fingerprint if several tasks have that name."""
    systems: tuple[System, ...]

    @property
    def baseline(self) -> System | None:
        return self.systems[0] if self.systems[0].is_baseline else None

    @property
    def candidates(self) -> tuple[System, ...]:
        return tuple(system for system in self.systems if not system.is_baseline)

    @property
    def has_seeds(self) -> bool:
        return any(system.result.of_seeds for system in self.systems)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The task's own measures, or `COLUMNS`, with a value; a setting with none of them shows what it does have."""
        shown: list[Column] = []
        headline = dict.fromkeys(name for system in self.systems for name in system.result.headline)
        for setting in (MONOLINGUAL, CROSS_LINGUAL, MULTILINGUAL):
            wanted = [Column(setting, name) for name in headline] or [c for c in COLUMNS if c.setting == setting]
            own = [c for c in wanted if any(c.value(s.result) is not None for s in self.systems)]
            names = dict.fromkeys(name for s in self.systems for name in s.result.settings.get(setting, {}))
            shown += own or [Column(setting, name) for name in names]
        return tuple(shown)

    def row(self, column: Column, of: Mapping[str, Mapping[str, float]]) -> list[TableCell]:
        """One cell a system; `of` has the measures by system label."""
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
        """System → one cell a column."""
        by_column = [self._with_spread(column) for column in self.columns]
        return tuple((system, tuple(row[i] for row in by_column)) for i, system in enumerate(self.systems))

    def _with_spread(self, column: Column) -> list[TableCell]:
        row = self.row(column, {s.label: s.result.settings.get(column.setting, {}) for s in self.systems})
        return [replace(cell, spread=_spread(column, s.result)) for s, cell in zip(self.systems, row, strict=True)]


def _spread(column: Column, result: EvaluationResult) -> str:
    values = result.of_seeds.get(column.setting, {}).get(column.measure, [])
    half = SeedInterval.of(values).half if values else None
    return "" if half is None else f"±{column.text(half)}"


def compare(results: Sequence[EvaluationResult], baseline: Baseline = None) -> list[Comparison]:
    """One comparison a task, in the order in which the tasks first occur.

    Results on tasks of one name but with other queries, documents or judgements are not compared: each data has a
    comparison of its own, with a part of its fingerprint in the name.

    Raises:
        TaskError: there is nothing to compare, or a baseline was judged on a task that no result has.
    """
    if not results:
        raise TaskError("there is no result to show; run `hbt evaluate MODEL --task NAME=DIR` first")
    baselines = {v.data: v for v in ([baseline] if isinstance(baseline, EvaluationResult) else baseline or ())}
    groups: dict[tuple[str, str], list[EvaluationResult]] = {}
    for result in results:
        groups.setdefault(result.data, []).append(result)
    if strangers := sorted(baselines.keys() - groups.keys()):
        known = {task for task, _ in groups}
        other = "other queries, documents or judgements of that task" if strangers[0][0] in known else ", ".join(known)
        raise TaskError(
            f"the baseline was judged on {strangers[0][0]}, the results on {other}, so no difference can be shown; "
            "evaluate the baseline on the same task, or leave it out",
            code="OTHER_TASK",
        )
    names = Counter(task for task, _ in groups)
    return [
        _comparison(task if names[task] == 1 else f"{task} (data {data[:7]})", group, baselines.get((task, data)))
        for (task, data), group in groups.items()
    ]


def _comparison(task: str, results: Sequence[EvaluationResult], baseline: EvaluationResult | None) -> Comparison:
    own = [result for result in results if result != baseline]
    if not own:
        raise TaskError(f"the only result on {task} is the baseline itself; give another result, or no baseline")
    everyone = [baseline, *own] if baseline else own
    names = Counter(result.model for result in everyone)
    labels: Counter[str] = Counter()
    systems = []
    for result in everyone:
        label = result.model if names[result.model] == 1 else f"{result.model} ({result.fingerprint[:7]})"
        labels[label] += 1
        label = label if labels[label] == 1 else f"{label} #{labels[label]}"
        systems.append(System(label, result, result is baseline))
    return Comparison(task, tuple(systems))


def headline_table(results: Sequence[EvaluationResult], baseline: Baseline = None) -> Table:
    """The headline of the report for the terminal: bold is the best of its column, small print the difference."""
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
