"""Heat maps: question language × passage language, one colour scale for all systems of a task.

The scale is even in OKLCH lightness (equal steps look equal) and turned round for dark screens, so that high values
stand out from the page in both. It covers a third of the lightness, so that one colour of text, black or white, has a
contrast above 5 in every cell (WCAG AA asks for 4.5). Cells are classes `h0` … `h40`, below thirty bytes each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hbt_ray.evaluate.table import MISSING, Column, Comparison, System
from hbt_ray.evaluate.verdict import MULTILINGUAL

LEVELS = 41
# Wider maps have cells too small for their numbers, and 100 languages would make 10,000 cells a system.
MAX_LANGUAGES = 24
AP = Column(MULTILINGUAL, "AP")
Triple = tuple[float, float, float]


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
    task: str
    languages: tuple[str, ...]
    num_left_out: int
    has_pool: bool
    low: str
    high: str
    maps: tuple[HeatMap, ...]


def heat_maps(comparison: Comparison) -> HeatMaps | None:
    """None where no pair has an AP."""
    everyone = list(dict.fromkeys(tag for system in comparison.systems for tag in system.verdict.languages))
    languages = everyone[:MAX_LANGUAGES]
    has_pool = any(AP.of(m) is not None for s in comparison.systems for m in s.verdict.pool.values())
    grids = [_grid(system, languages, has_pool) for system in comparison.systems]
    known = [value for grid in grids for row in grid for value in row if value is not None]
    if not known:
        return None
    low, high = math.floor(min(known) * 10) / 10, math.ceil(max(known) * 10) / 10
    high = max(high, low + 0.1)
    maps = []
    for system, grid in zip(comparison.systems, grids, strict=True):
        rows = [
            (tag, tuple(_cell(value, (low, high), i == j, j == len(languages)) for j, value in enumerate(row)))
            for i, (tag, row) in enumerate(zip(languages, grid, strict=True))
        ]
        maps.append(HeatMap(system, tuple(rows)))
    left_out = len(everyone) - len(languages)
    return HeatMaps(comparison.task, tuple(languages), left_out, has_pool, AP.text(low), AP.text(high), tuple(maps))


def _grid(system: System, languages: list[str], has_pool: bool) -> list[list[float | None]]:
    pairs, pool = system.verdict.pairs, system.verdict.pool
    return [
        [AP.of(pairs.get(q, {}).get(p, {})) for p in languages] + ([AP.of(pool.get(q, {}))] if has_pool else [])
        for q in languages
    ]


def _cell(value: float | None, bounds: tuple[float, float], own: bool, pool: bool) -> HeatCell:
    extra = " own" * own + " all" * pool
    if value is None:
        return HeatCell(MISSING, "none" + extra)
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return HeatCell(AP.text(value), f"h{round(min(max(share, 0), 1) * (LEVELS - 1))}{extra}")


def level_css(dark: bool) -> str:
    """The rules of all levels for one colour scheme."""
    return "".join(f".h{i}{{background:{_hex(level_colour(i / (LEVELS - 1), dark))}}}" for i in range(LEVELS))


def ramp_css(dark: bool) -> str:
    """The colour stops of the legend."""
    return ",".join(_hex(level_colour(i / 10, dark)) for i in range(11))


def level_colour(share: float, dark: bool) -> Triple:
    """sRGB in 0…1: from paper to blue, or from night to green."""
    if dark:
        lightness, hue, chroma = 0.25 + 0.27 * share, 280 - 120 * share, 0.035 + 0.09 * share
    else:
        lightness, hue, chroma = 0.97 - 0.32 * share, 100 + 140 * share, 0.02 + 0.11 * share
    while True:  # less chroma until the colour exists on a screen
        rgb = _oklch_to_srgb(lightness, chroma, math.radians(hue))
        if all(-1e-4 <= channel <= 1.0001 for channel in rgb):
            red, green, blue = (min(max(channel, 0.0), 1.0) for channel in rgb)
            return red, green, blue
        chroma *= 0.97


def _oklch_to_srgb(lightness: float, chroma: float, hue: float) -> Triple:
    """Björn Ottosson's OKLab, inverse matrices of 2021-01-25."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3  # noqa: E741
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
        _gamma(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
        _gamma(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s),
    )


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _hex(rgb: Triple) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in rgb)
