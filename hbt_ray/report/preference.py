"""Preference of languages: which of them stand first in the pool, and what that costs a reader of all answers."""

from __future__ import annotations

from dataclasses import dataclass

from hbt_ray.report.by_language import LanguageTable, language_table
from hbt_ray.report.heat_map import AP, MAX_LANGUAGES, HeatMaps, painted
from hbt_ray.report.labels import language_name
from hbt_ray.retrieval.bias import MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION, SHARE_DISTANCE
from hbt_ray.retrieval.compare import Column, Comparison, TableCell
from hbt_ray.retrieval.result import MULTILINGUAL

COLUMNS = tuple(Column(MULTILINGUAL, name) for name in (MAX_RANK, OWN_LANGUAGE_FIRST, SHARE_DISTANCE, RANK_CORRELATION))


@dataclass(frozen=True)
class Preferences:
    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    """One a system, one cell a column."""
    by_language: LanguageTable | None
    shares: HeatMaps | None
    """Question language × passage language of the first documents."""
    pool: str
    """The least and the greatest share of a language in the pool, in words."""


def preferences(comparison: Comparison) -> Preferences | None:
    """None where no result has any of it: one language of passages, a bitext, or results from before."""
    columns = [c for c in COLUMNS if any(c.value(system.result) is not None for system in comparison.systems)]
    if not columns:
        return None
    settings = {system.label: system.result.settings.get(MULTILINGUAL, {}) for system in comparison.systems}
    by_column = [comparison.row(column, settings) for column in columns]
    return Preferences(
        columns=tuple(columns),
        rows=tuple(tuple(row[i] for row in by_column) for i in range(len(comparison.systems))),
        by_language=language_table(comparison, columns, MULTILINGUAL),
        shares=_shares(comparison),
        pool=_pool(comparison),
    )


def _shares(comparison: Comparison) -> HeatMaps | None:
    results = [system.result for system in comparison.systems]
    everyone = list(dict.fromkeys(tag for result in results for tag in result.languages))
    names = everyone[:MAX_LANGUAGES]
    grids = [
        [
            [
                None if share is None else round(share, 3)
                for share in (result.language_share.get(q, {}).get(p) for p in names)
            ]
            for q in names
        ]
        for result in results
    ]
    return painted(comparison, grids, names, "share of the first ten", len(everyone) - len(names))


def _pool(comparison: Comparison) -> str:
    counts = sorted((count, tag) for tag, count in comparison.systems[0].result.num_documents.items() if count)
    total = sum(count for count, _ in counts)
    ends = [f"{AP.text(round(count / total, 3))} ({language_name(tag)})" for count, tag in (counts[0], counts[-1])]
    return " to ".join(ends)
