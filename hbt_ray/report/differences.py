"""Differences: which of them could be chance? Each system against the baseline, by their per-query tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.compare import MISSING, Column, Comparison, System
from hbt_ray.retrieval.result import Artifacts, find_artifacts
from hbt_ray.retrieval.significance import Difference, compare_systems

ALPHA = 0.05
RESAMPLES = 5_000
"""Half of the default, since a page may hold hundreds of tests; p goes down to .0002."""


@dataclass(frozen=True)
class Tested:
    """One difference as the page writes it."""

    system: System
    column: Column
    found: Difference

    @property
    def is_significant(self) -> bool:
        return self.found.p_holm < ALPHA

    @property
    def difference(self) -> str:
        return self._signed(self.found.difference)

    @property
    def interval(self) -> str:
        if not math.isfinite(self.found.low + self.found.high):
            return MISSING
        return f"{self._signed(self.found.low)} to {self._signed(self.found.high)}"

    @property
    def effect(self) -> str:
        return f"{self.found.effect:+.2f}".replace("-", "−") if math.isfinite(self.found.effect) else MISSING

    @property
    def better(self) -> bool | None:
        return (self.found.difference < 0) == self.column.lower_is_better if self.is_significant else None

    @property
    def words(self) -> str:
        """For the mark in other tables."""
        return f"p (Holm) {chance(self.found.p_holm, '= ')}, 95 % interval {self.interval}"

    def _signed(self, value: float) -> str:
        return self.column.signed(self.column.of({self.column.measure: value}))


@dataclass(frozen=True)
class Differences:
    reference: System
    """What differences are taken to: the baseline, or else the first system."""
    tested: tuple[Tested, ...]
    untested: tuple[str, ...]
    """Why a system was not tested, a sentence each."""
    _found: dict[tuple[str, Column, str], Tested] = field(default_factory=dict, repr=False)

    @property
    def overall(self) -> list[Tested]:
        return [each for each in self.tested if not each.found.language]

    @property
    def by_language(self) -> list[Tested]:
        return [each for each in self.tested if each.found.language]

    def mark(self, system: System, column: Column, language: str = "") -> Tested | None:
        """The difference behind a figure, where it is significant after Holm's correction."""
        tested = self._found.get((system.label, column, language))
        return tested if tested and tested.is_significant else None


def differences(comparison: Comparison, evidence: Sequence[Artifacts]) -> Differences | None:
    """None where there are no two systems. A system whose queries are others, or are not there, is said to be untested.

    Raises:
        TaskError: a per-query table is damaged.
    """
    reference, *others = comparison.systems
    if not others:
        return None
    base = _queries(reference, evidence)
    if base is None or all(_queries(system, evidence) is None for system in others):
        return Differences(reference, (), ("There are no per-query results of two systems beside the results.",))
    tested, untested = [], []
    for system in others:
        try:
            tested += _tested(system, _queries(system, evidence), base, comparison.columns)
        except TaskError as error:
            untested.append(f"{system.label}: {error}.")
    found = {(each.system.label, each.column, each.found.language): each for each in tested}
    return Differences(reference, tuple(tested), tuple(untested), found)


def chance(p: float, equals: str = "") -> str:
    """`.034`, `< .001`; with `= ` in front where it stands in a sentence."""
    return "< .001" if p < 0.0005 else equals + (f"{p:.3f}".removeprefix("0"))


def _queries(system: System, evidence: Sequence[Artifacts]) -> pa.Table | None:
    found = find_artifacts(system.result, evidence)
    return found.queries if found else None


def _tested(system: System, table: pa.Table | None, base: pa.Table, columns: Sequence[Column]) -> list[Tested]:
    """In the order of the columns; Holm's correction is over the settings that are shown."""
    if table is None:
        raise TaskError("no per-query results lie beside its result")
    found: dict[Column, list[Difference]] = {column: [] for column in columns}
    for measure in dict.fromkeys(column.measure for column in columns):
        settings = pa.array([column.setting for column in columns if column.measure == measure])
        a, b = (each.filter(pc.is_in(each["setting"], value_set=settings)) for each in (table, base))
        for difference in compare_systems(a, b, measure, resamples=RESAMPLES):
            found[Column(difference.setting, measure)].append(difference)
    return [Tested(system, column, each) for column in columns for each in found[column]]
