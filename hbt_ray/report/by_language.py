"""Tables by question language: measures of the pool, or of each language's own passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.retrieval.compare import Column, Comparison, TableCell
from hbt_ray.retrieval.result import MONOLINGUAL, MULTILINGUAL


@dataclass(frozen=True)
class LanguageTable:
    setting: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[tuple[TableCell, ...], ...]], ...]
    """Language → one tuple of cells a column, one cell a system."""
    longest: float
    """The greatest number of ranks, the full length of a bar."""


def by_language(comparison: Comparison) -> LanguageTable | None:
    """The headline's measures in the pool of all languages; without a pool, in the language's own passages."""
    pooled = any(system.result.pool for system in comparison.systems)
    setting = MULTILINGUAL if pooled else MONOLINGUAL
    return language_table(comparison, [column for column in comparison.columns if column.setting == setting], setting)


def language_table(comparison: Comparison, columns: Sequence[Column], setting: str) -> LanguageTable | None:
    """Columns of one setting, the multilingual or the monolingual; None without any."""
    if not columns:
        return None
    rows = []
    for tag in dict.fromkeys(tag for system in comparison.systems for tag in system.result.languages):
        of = {
            s.label: s.result.pool.get(tag, {}) if setting == MULTILINGUAL else s.result.pairs.get(tag, {}).get(tag, {})
            for s in comparison.systems
        }
        rows.append((tag, tuple(tuple(comparison.row(column, of)) for column in columns)))
    ranks = [
        cell.value or 0.0
        for _, groups in rows
        for column, cells in zip(columns, groups, strict=True)
        for cell in cells
        if column.counts_ranks
    ]
    return LanguageTable(setting, tuple(columns), tuple(rows), max([*ranks, 1.0]))
