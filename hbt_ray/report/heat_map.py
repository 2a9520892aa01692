"""Heat maps: question language × passage language, or families of them; one colour scale for all systems of a task.

The colours are those of `hbt_ray.palette`. Cells are classes `h0` … `h40`, below thirty bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.palette import hex_code, level_colour
from hbt_ray.retrieval.compare import MISSING, Column, Comparison, System
from hbt_ray.retrieval.result import MULTILINGUAL

LEVELS = 41
# Wider maps have cells too small for their numbers, and 100 languages would make 10,000 cells a system.
MAX_LANGUAGES = 24
AP = Column(MULTILINGUAL, "AP")


@dataclass(frozen=True)
class HeatCell:
    text: str
    style: str
    """CSS classes: the level, `own` on the diagonal, `all` in the column of the pool."""


@dataclass(frozen=True)
class HeatMap:
    system: System
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True)
class HeatMaps:
    """Rows are what questions belong to, columns what passages do, the same names for both."""

    task: str
    names: tuple[str, ...]
    """Languages, or families of them."""
    what: str
    """That the numbers are, for tooltips and for those who cannot see the colours: `AP`."""
    num_left_out: int
    last: str
    """What the last column is beside the names; empty where there is none."""
    low: str
    high: str
    maps: tuple[HeatMap, ...]


Grid = list[list[float | None]]


def heat_maps(comparison: Comparison) -> HeatMaps | None:
    """AP of all pairs; None where no pair has one."""
    everyone = list(dict.fromkeys(tag for system in comparison.systems for tag in system.result.languages))
    languages = everyone[:MAX_LANGUAGES]
    has_pool = any(AP.of(m) is not None for s in comparison.systems for m in s.result.pool.values())
    grids = [_grid(system, languages, has_pool) for system in comparison.systems]
    last = "the pool of all languages" if has_pool else ""
    return painted(comparison, grids, languages, "AP", len(everyone) - len(languages), last)


def painted(
    comparison: Comparison, grids: Sequence[Grid], names: Sequence[str], what: str, num_left_out: int, last: str = ""
) -> HeatMaps | None:
    """A map of each system from its grid [names, names, with the last column where there is one], as shares of 1."""
    known = [value for grid in grids for row in grid for value in row if value is not None]
    if not known:
        return None
    low, high = math.floor(min(known) * 10) / 10, math.ceil(max(known) * 10) / 10
    high = max(high, low + 0.1)
    maps = []
    for system, grid in zip(comparison.systems, grids, strict=True):
        rows = [
            (name, tuple(_cell(value, (low, high), i == j, j == len(names)) for j, value in enumerate(row)))
            for i, (name, row) in enumerate(zip(names, grid, strict=True))
        ]
        maps.append(HeatMap(system, tuple(rows)))
    return HeatMaps(comparison.task, tuple(names), what, num_left_out, last, AP.text(low), AP.text(high), tuple(maps))


def _grid(system: System, languages: list[str], has_pool: bool) -> Grid:
    pairs, pool = system.result.pairs, system.result.pool
    return [
        [AP.of(pairs.get(q, {}).get(p, {})) for p in languages] + ([AP.of(pool.get(q, {}))] if has_pool else [])
        for q in languages
    ]


def _cell(value: float | None, bounds: tuple[float, float], own: bool, pool: bool) -> HeatCell:
    extra = " own" * own + " all" * pool
    if value is None:
        return HeatCell(MISSING, "blank" + extra)
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return HeatCell(AP.text(value), f"h{round(min(max(share, 0), 1) * (LEVELS - 1))}{extra}")


def level_css(dark: bool) -> str:
    """The rules of all levels for one colour scheme."""
    return "".join(f".h{i}{{background:{hex_code(level_colour(i / (LEVELS - 1), dark))}}}" for i in range(LEVELS))


def ramp_css(dark: bool) -> str:
    """The colour stops of the legend."""
    return ",".join(hex_code(level_colour(i / 10, dark)) for i in range(11))
