"""Heat maps: question language × passage language, or their families; all systems of a task share one colour scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.report.colours import level
from hbt_ray.report.tables import Cell, Table, language_cell
from hbt_ray.retrieval.compare import MISSING, Column, Comparison, System
from hbt_ray.retrieval.result import MULTILINGUAL

MAX_LANGUAGES = 24
"""Cells of larger maps are too small for their numbers, and 100 languages would make 10,000 cells per system."""
AP = Column(MULTILINGUAL, "AP")
Grid = list[list[float | None]]
"""[rows, columns] of values between 0 and 1."""


@dataclass(frozen=True)
class HeatMaps:
    """One map per system, with the same names for rows and columns."""

    maps: tuple[Table, ...]
    num_names: int
    num_hidden: int
    """Names beyond `MAX_LANGUAGES`, which are not shown."""
    measure: str
    """What the numbers are, for tooltips."""
    has_pool: bool
    """Whether the last column is the pool of all languages."""
    low: str
    high: str
    """Ends of the colour scale."""


def language_heat_maps(comparison: Comparison) -> HeatMaps | None:
    """AP of all pairs of languages, and of the pool; None if no pair has one."""
    languages = list(dict.fromkeys(tag for system in comparison.systems for tag in system.result.languages))
    shown = languages[:MAX_LANGUAGES]
    has_pool = any(AP.of(row) is not None for system in comparison.systems for row in system.result.pool.values())
    grids = [_language_grid(system, shown, has_pool) for system in comparison.systems]
    return heat_maps(comparison, grids, shown, "AP", len(languages) - len(shown), has_pool)


def heat_maps(
    comparison: Comparison,
    grids: Sequence[Grid],
    names: Sequence[str],
    measure: str,
    num_hidden: int,
    has_pool: bool = False,
    axes: tuple[str, str] = ("question language", "passage language"),
) -> HeatMaps | None:
    """One map for each system of the comparison; None if all values are missing.

    Args:
        grids: the values of each system, with a last column for the pool if `has_pool`.
        names: of rows and columns.
        axes: what rows and columns are.
    """
    known = [value for grid in grids for row in grid for value in row if value is not None]
    if not known:
        return None
    low, high = math.floor(min(known) * 10) / 10, math.ceil(max(known) * 10) / 10
    bounds = low, max(high, low + 0.1)
    headings = [Cell(""), *(language_cell(name, with_name=False) for name in names)]
    if has_pool:
        headings.append(Cell("all", "all", title="the pool of all languages"))
    style = "heat long" if max(map(len, names)) > 3 else "heat"
    maps = []
    for system, grid in zip(comparison.systems, grids, strict=True):
        rows = [
            [headings[i + 1], *(_cell(value, bounds, i == j, j == len(names)) for j, value in enumerate(row))]
            for i, row in enumerate(grid)
        ]
        caption = f"{measure} by {axes[0]} (rows) and {axes[1]} (columns)"
        maps.append(Table(headings, rows, system.label, caption, style=style, is_sortable=False))
    return HeatMaps(tuple(maps), len(names), num_hidden, measure, has_pool, AP.text(bounds[0]), AP.text(bounds[1]))


def _language_grid(system: System, languages: list[str], has_pool: bool) -> Grid:
    pairs, pool = system.result.pairs, system.result.pool
    return [
        [AP.of(pairs.get(q, {}).get(p, {})) for p in languages] + ([AP.of(pool.get(q, {}))] if has_pool else [])
        for q in languages
    ]


def _cell(value: float | None, bounds: tuple[float, float], is_diagonal: bool, is_pool: bool) -> Cell:
    classes = " own" * is_diagonal + " all" * is_pool
    if value is None:
        return Cell(MISSING, "blank" + classes)
    return Cell(AP.text(value), level((value - bounds[0]) / (bounds[1] - bounds[0])) + classes)
