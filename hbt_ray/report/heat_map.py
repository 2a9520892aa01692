"""Heat maps of question language × passage language, or of families. All systems of a task share one colour scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.report.tables import Cell, Table, language_cell
from hbt_ray.retrieval.compare import Column, Comparison
from hbt_ray.retrieval.result import MULTILINGUAL

MAX_LANGUAGES = 24
"""Maximum number of rows: cells of larger maps are too small for numbers, and 100 languages make 10,000 cells."""
AP = Column(MULTILINGUAL, "AP")
Grid = list[list[float | None]]
"""[rows, columns] of values between 0 and 1; None or NaN if one is missing."""


@dataclass(frozen=True)
class HeatMaps:
    """One map per system, all with the same rows and columns."""

    maps: tuple[Table, ...]
    num_names: int
    num_hidden: int
    """Number of names beyond `MAX_LANGUAGES`, which are not shown."""
    measure: str
    """Name of the measure, for tooltips."""
    has_pool: bool
    """Whether the last column is the pool of all languages."""
    low: str
    high: str
    """`low` and `high` are the ends of the colour scale as text."""


def language_heat_maps(comparison: Comparison) -> HeatMaps | None:
    """Maps of AP for all pairs of languages and for the pool; None if there is no value."""
    results = [system.result for system in comparison.systems]
    languages = list(dict.fromkeys(tag for result in results for tag in result.languages))
    shown = languages[:MAX_LANGUAGES]
    has_pool = any(AP.measure in row for result in results for row in result.pool.values())
    grids = [
        [
            [result.pairs.get(question, {}).get(passage, {}).get(AP.measure) for passage in shown]
            + ([result.pool.get(question, {}).get(AP.measure)] if has_pool else [])
            for question in shown
        ]
        for result in results
    ]
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
        grids: values of each system; the last column is the pool if `has_pool`.
        names: names of the rows, and of the columns except the pool.
        axes: what a row and a column stand for, for the caption.
    """
    # Every map shows values from 0 to 1, so all are formatted like AP.
    rounded = [[[AP.round(value) for value in row] for row in grid] for grid in grids]
    known = [value for grid in rounded for row in grid for value in row if value is not None]
    if not known:
        return None
    # The scale ends at tenths, and spans at least one so that no division is by zero.
    low, high = math.floor(min(known) * 10) / 10, math.ceil(max(known) * 10) / 10
    high = max(high, low + 0.1)
    headings = [Cell(""), *(language_cell(name, with_name=False) for name in names)]
    if has_pool:
        headings.append(Cell("all", "all", title="the pool of all languages"))
    style = "heat long" if max(map(len, names)) > 3 else "heat"
    caption = f"{measure} by {axes[0]} (rows) and {axes[1]} (columns)"
    maps = []
    for system, grid in zip(comparison.systems, rounded, strict=True):
        rows = []
        for i, row in enumerate(grid):
            cells = [headings[i + 1]]  # Row i has the name of column i; `headings` starts with the corner.
            for j, value in enumerate(row):
                kind = " own" if i == j else " all" if j == len(names) else ""
                level = None if value is None else (value - low) / (high - low)
                cells.append(Cell(AP.text(value), ("blank" if value is None else "cell") + kind, level=level))
            rows.append(cells)
        maps.append(Table(headings, rows, system.label, caption, style=style, is_sortable=False))
    return HeatMaps(tuple(maps), len(names), num_hidden, measure, has_pool, AP.text(low), AP.text(high))
