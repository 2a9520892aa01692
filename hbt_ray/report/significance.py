"""Tests of significance of each system against the baseline, on their per-query results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import TaskError
from hbt_ray.report.tables import Cell, Table, count, language_cell, number
from hbt_ray.retrieval.compare import MISSING, Column, Comparison, System
from hbt_ray.retrieval.significance import Difference, compare_systems

ALPHA = 0.05
RESAMPLES = 5_000
"""Half of the default, since a page may hold hundreds of tests; the smallest p is then .0002."""


@dataclass(frozen=True)
class MeasuredDifference:
    """The difference in one measure between a system and the reference, with its test."""

    system: System
    column: Column
    test: Difference

    @property
    def interval(self) -> str:
        low, high = (self.column.signed(self.column.round(end)) for end in (self.test.low, self.test.high))
        return f"{low} to {high}" if math.isfinite(self.test.low + self.test.high) else MISSING

    @property
    def tooltip(self) -> str:
        """A short text on the test, for daggers in tables; empty if the difference is not significant."""
        significant = self.test.p_holm < ALPHA
        return f"p (Holm) {p_value(self.test.p_holm, '= ')}, 95 % interval {self.interval}" if significant else ""

    def row(self, with_system: bool) -> list[Cell]:
        """Cells of a row of the table of differences."""
        test, difference = self.test, self.test.difference
        better = (difference < 0) == self.column.lower_is_better
        style = "same" if not self.tooltip else "better" if better else "worse"
        finite = math.isfinite(test.effect)
        shown = self.column.signed(self.column.round(difference))
        return [
            *([Cell(self.system.label)] if with_system else []),
            Cell(self.column.name),
            *([language_cell(test.language)] if test.language else []),
            # Sort by the exact difference, not by its rounded text.
            Cell(shown, f"number {style}", difference, mark=self.tooltip),
            number(self.interval, difference),
            number(f"{test.effect:+.2f}".replace("-", "−") if finite else MISSING, test.effect if finite else ""),
            number(p_value(test.p), test.p),
            number(p_value(test.p_holm), test.p_holm),
            count(test.num_items),
        ]


@dataclass(frozen=True)
class Differences:
    """All tests of one task, and the systems that could not be tested."""

    reference: System
    """System that the others are compared with: the baseline, or the first system if there is none."""
    tested: tuple[MeasuredDifference, ...]
    untested: tuple[str, ...]
    """One sentence for each system that was not tested, with the reason."""
    # (system label, column, question language or "") → its test
    _index: dict[tuple[str, Column, str], MeasuredDifference] = field(default_factory=dict, repr=False)

    def tooltip(self, system: System, column: Column, language: str = "") -> str:
        """The test of a number in another table, if it is significant after Holm's correction; else empty."""
        tested = self._index.get((system.label, column, language))
        return tested.tooltip if tested else ""

    def table(self, with_system: bool, by_language: bool) -> Table | None:
        """A table of the tests over all languages, or by language; None if there are none."""
        chosen = [tested for tested in self.tested if bool(tested.test.language) == by_language]
        if not chosen:
            return None
        names = ["System"] * with_system + ["Measure"] + ["Language"] * by_language
        numbers = ["Difference", "95 % interval", "Effect", "p", "p (Holm)", "Questions"]
        return Table([*map(Cell, names), *map(number, numbers)], [tested.row(with_system) for tested in chosen])


def compare_with_reference(comparison: Comparison) -> Differences | None:
    """Test every system against the reference; None for a single system.

    A system without per-query results, or with results on other queries, is listed as untested.

    Raises:
        TaskError: a per-query table is damaged.
    """
    reference, *others = comparison.systems
    if not others:
        return None
    base = reference.result.queries
    if base is None or all(system.result.queries is None for system in others):
        return Differences(reference, (), ("There are no per-query results of two systems beside the results.",))
    tested: list[MeasuredDifference] = []
    untested = []
    for system in others:
        table = system.result.queries
        if table is None:
            untested.append(f"{system.label}: no per-query results lie beside its result.")
            continue
        try:
            tested += _test(system, table, base, comparison.columns)
        except TaskError as error:
            untested.append(f"{system.label}: {error}.")
    index = {(each.system.label, each.column, each.test.language): each for each in tested}
    return Differences(reference, tuple(tested), tuple(untested), index)


def p_value(p: float, equals: str = "") -> str:
    """`.034`, `< .001`; `equals` is written before an exact number."""
    return "< .001" if p < 0.0005 else equals + (f"{p:.3f}".removeprefix("0"))


def _test(system: System, table: pa.Table, base: pa.Table, columns: Sequence[Column]) -> list[MeasuredDifference]:
    """Tests in the order of the columns. Holm's correction only counts the settings that are shown."""
    tests: dict[Column, list[Difference]] = {column: [] for column in columns}
    # One call per measure for all of its settings, since Holm's correction is over them.
    for measure in dict.fromkeys(column.measure for column in columns):
        settings = pa.array([column.setting for column in columns if column.measure == measure])
        ours, theirs = (rows.filter(pc.is_in(rows["setting"], value_set=settings)) for rows in (table, base))
        for difference in compare_systems(ours, theirs, measure, resamples=RESAMPLES):
            tests[Column(difference.setting, measure)].append(difference)
    return [MeasuredDifference(system, column, test) for column in columns for test in tests[column]]
