"""Kinship: does transfer between languages depend on whether they share a family or a script?

Each ordered pair of two languages counts the same, so that a large family weighs by its pairs. Language, family and
script go together with how much text a language has on the web, and with training data: this describes, and does not
explain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hbt_ray.languages.families import UNKNOWN, Family, family
from hbt_ray.report.heat_map import MAX_LANGUAGES, Grid, HeatMaps, painted
from hbt_ray.retrieval.compare import Column, Comparison, TableCell
from hbt_ray.retrieval.result import CROSS_LINGUAL, EvaluationResult

RELATIONS = (
    "same family, same script",
    "same family, other script",
    "other family, same script",
    "other family, other script",
)


@dataclass(frozen=True)
class FamilyTable:
    column: Column
    rows: tuple[tuple[str, int, tuple[TableCell, ...]], ...]
    """Relation, ordered pairs of languages, one cell a system."""
    maps: HeatMaps | None
    """Family × family; None where there is one family."""
    families: tuple[tuple[str, tuple[str, ...]], ...]
    """Family → its languages, the largest first."""


def family_table(comparison: Comparison) -> FamilyTable | None:
    """By the first cross-lingual measure of the headline; None where fewer than two relations have a pair."""
    column = next((column for column in comparison.columns if column.setting == CROSS_LINGUAL), None)
    if column is None:
        return None
    values = {system.label: _pairs(system.result, column) for system in comparison.systems}
    pairs = list(dict.fromkeys(pair for of in values.values() for pair in of))
    rows = []
    for name in RELATIONS:
        members = [pair for pair in pairs if relation(*pair) == name]
        means = {label: {column.measure: _mean(of, members)} for label, of in values.items()}
        if members:
            rows.append((name, len(members), tuple(comparison.row(column, means))))
    if len(rows) < 2:
        return None
    languages = dict.fromkeys(language for pair in pairs for language in pair)
    sizes = Counter(family(language).family for language in languages)
    names = [name for name, _ in sizes.most_common()]
    shown = names[:MAX_LANGUAGES]
    grids = [_grid(of, shown, column) for of in values.values()]
    maps = painted(comparison, grids, shown, column.label, len(names) - len(shown)) if len(shown) > 1 else None
    members_of = ((name, tuple(tag for tag in languages if family(tag).family == name)) for name in names)
    return FamilyTable(column, tuple(rows), maps, tuple(members_of))


def relation(question: str, passage: str) -> str:
    """One of `RELATIONS`; what is unknown is shared with nobody."""
    one, other = family(question), family(passage)
    kin, letters = _shared(one.family, other.family), _shared(one.script, other.script)
    return RELATIONS[2 * (not kin) + (not letters)]


def _shared(one: str, other: str) -> bool:
    return one == other != UNKNOWN


Pairs = dict[tuple[str, str], float]


def _pairs(result: EvaluationResult, column: Column) -> Pairs:
    """Cross-lingual pairs → the measure, not rounded."""
    return {
        (asked, found): measures[column.measure]
        for asked, row in result.pairs.items()
        for found, measures in row.items()
        if asked != found and column.of(measures) is not None
    }


def _mean(values: Pairs, pairs: list[tuple[str, str]]) -> float:
    """NaN, which is shown as missing, where a system has none of the pairs."""
    known = [values[pair] for pair in pairs if pair in values]
    return float(np.mean(known)) if known else float("nan")


def _grid(values: Pairs, names: list[str], column: Column) -> Grid:
    cells: dict[tuple[str, str], list[float]] = {}
    for (asked, found), value in values.items():
        of: tuple[Family, Family] = family(asked), family(found)
        cells.setdefault((of[0].family, of[1].family), []).append(value)
    return [
        [column.of({column.measure: float(np.mean(cells[q, p]))}) if (q, p) in cells else None for p in names]
        for q in names
    ]
