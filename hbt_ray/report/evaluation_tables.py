"""Tables of an evaluation: headline, question languages, families, language bias, data, and the cost of evaluation.

In the table of families each ordered pair of two languages has the same weight, so a large family has more weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from hbt_ray.languages.families import UNKNOWN, family
from hbt_ray.languages.tags import english_name
from hbt_ray.report.formatting import duration, size
from hbt_ray.report.heat_map import AP, MAX_LANGUAGES, Grid, HeatMaps, heat_maps
from hbt_ray.report.significance import Differences
from hbt_ray.report.tables import Cell, Table, count, language_cell, measure_heading, measured, number, system_cell
from hbt_ray.retrieval.bias import MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION, SHARE_DISTANCE
from hbt_ray.retrieval.compare import MISSING, SEEDS_NOTE, Column, Comparison, System
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, EvaluationResult

RELATIONS = (
    "same family, same script",
    "same family, other script",
    "other family, same script",
    "other family, other script",
)
BIAS_COLUMNS = tuple(
    Column(MULTILINGUAL, name) for name in (MAX_RANK, OWN_LANGUAGE_FIRST, SHARE_DISTANCE, RANK_CORRELATION)
)
Pairs = dict[tuple[str, str], float]
"""(question language, passage language) → measure."""


def headline(comparison: Comparison, differences: Differences | None) -> Table:
    """All measures of all systems in the layout of 2408.10536: a row per system, settings × measures as columns."""
    notes = []
    if len(comparison.systems) > 1:
        notes.append("Best of each column in bold with a dot.")
    if comparison.baseline:
        notes.append("Small print: difference to the baseline.")
    if differences and differences.tested:
        notes.append(f"† Differs from {differences.reference.label} beyond chance.")
    if comparison.has_seeds:
        notes.append(f"{SEEDS_NOTE}.")
    rows = []
    for system, cells in comparison.headline:
        marks = [differences.tooltip(system, column) if differences else "" for column in comparison.columns]
        rows.append([system_cell(system), *map(measured, cells, marks)])
    # `Comparison.columns` lists each setting in one run, as `groupby` needs.
    settings = groupby(comparison.columns, key=lambda column: column.setting)
    return Table(
        [Cell("System"), *_headings(comparison.columns)],
        rows,
        comparison.task,
        " ".join(notes),
        groups=[(Cell(setting), len(list(columns))) for setting, columns in settings],
        style="headline",
    )


def by_language(comparison: Comparison, differences: Differences | None) -> Table | None:
    """The headline's measures by question language: in the pool, or monolingual if no result has a pool."""
    pooled = any(system.result.pool for system in comparison.systems)
    setting = MULTILINGUAL if pooled else MONOLINGUAL
    columns = [column for column in comparison.columns if column.setting == setting]
    return _language_table(comparison, columns, setting, differences)


def _headings(columns: Sequence[Column]) -> list[Cell]:
    return [measure_heading(column.label, column.lower_is_better) for column in columns]


def _language_table(
    comparison: Comparison, columns: Sequence[Column], setting: str, differences: Differences | None = None
) -> Table | None:
    """A table whose rows are question languages and whose columns are measures × systems."""
    if not columns:
        return None
    systems = comparison.systems
    tags = list(dict.fromkeys(tag for system in systems for tag in system.result.languages))

    def measures(system: System, tag: str) -> Mapping[str, float]:
        result = system.result
        return result.pool.get(tag, {}) if setting == MULTILINGUAL else result.pairs.get(tag, {}).get(tag, {})

    # [language][measure][system]
    cells = [
        [comparison.row(column, [measures(system, tag).get(column.measure) for system in systems])
         for column in columns]
        for tag in tags
    ]  # fmt: skip
    # The worst rank of the table is the full length of its bars; at least 1, for the division.
    longest = max(
        [cell.value or 0.0 for row in cells for column, group in zip(columns, row, strict=True) for cell in group
         if column.counts_ranks] + [1.0]
    )  # fmt: skip
    rows = []
    for tag, groups in zip(tags, cells, strict=True):
        row = [language_cell(tag)]
        for column, group in zip(columns, groups, strict=True):
            for system, cell in zip(systems, group, strict=True):
                bar = cell.value / longest if column.counts_ranks and cell.value is not None else None
                mark = differences.tooltip(system, column, tag) if differences else ""
                row.append(replace(measured(cell, mark, bar), notes=()))
        rows.append(row)
    in_pool = "Questions of one language against the pool of all languages."
    in_language = "Questions against passages of their own language."
    return Table(
        [Cell("Language"), *(number(system.label) for _ in columns for system in systems)],
        rows,
        comparison.task,
        (in_pool if setting == MULTILINGUAL else in_language)
        + (" † As above." if differences and differences.tested else ""),
        groups=[(heading, len(systems)) for heading in _headings(columns)],
        style="languages dense" if len(systems) > 2 else "languages",
    )


@dataclass(frozen=True)
class FamilyTransfer:
    """A cross-lingual measure by family and script of the two languages."""

    column: Column
    table: Table
    """Mean of the measure by relation of the two languages, see `RELATIONS`."""
    maps: HeatMaps | None
    """Maps of family × family; None for a single family."""
    families: tuple[tuple[str, tuple[str, ...]], ...]
    """Family → its languages, the largest family first."""


def family_transfer(comparison: Comparison) -> FamilyTransfer | None:
    """Transfer in the first cross-lingual measure of the headline; None if fewer than two relations have a pair."""
    column = next((column for column in comparison.columns if column.setting == CROSS_LINGUAL), None)
    if column is None:
        return None
    values = [_cross_lingual_pairs(system.result, column) for system in comparison.systems]
    pairs = list(dict.fromkeys(pair for of_system in values for pair in of_system))
    by_relation = [_group_means(of_system, relation) for of_system in values]
    rows = []
    for name in RELATIONS:
        num_pairs = sum(relation(*pair) == name for pair in pairs)
        if num_pairs:
            cells = comparison.row(column, [means.get(name) for means in by_relation])
            rows.append([Cell(name), count(num_pairs), *map(measured, cells)])
    if len(rows) < 2:
        return None
    languages = dict.fromkeys(language for pair in pairs for language in pair)
    names = [name for name, _ in Counter(family(language).family for language in languages).most_common()]
    shown = names[:MAX_LANGUAGES]
    by_families = [_group_means(of_system, lambda q, p: (family(q).family, family(p).family)) for of_system in values]
    grids: list[Grid] = [[[means.get((q, p)) for p in shown] for q in shown] for means in by_families]
    axes = ("question family", "passage family")
    maps = heat_maps(comparison, grids, shown, column.label, len(names) - len(shown), axes=axes)
    systems = [replace(system_cell(system), style="number") for system in comparison.systems]
    headings = [Cell("Question and passage are of the"), number("Pairs"), *systems]
    caption = f"Mean {column.name} of ordered pairs of two languages."
    table = Table(headings, rows, comparison.task, caption, style="narrow")
    members = [(name, tuple(tag for tag in languages if family(tag).family == name)) for name in names]
    return FamilyTransfer(column, table, maps if len(shown) > 1 else None, tuple(members))


def relation(question: str, passage: str) -> str:
    """One of `RELATIONS`. An unknown family or script counts as different from all others."""
    first, second = family(question), family(passage)
    same_family, same_script = first.family == second.family != UNKNOWN, first.script == second.script != UNKNOWN
    # `RELATIONS` has the family in the outer order, the script in the inner one.
    return RELATIONS[2 * (not same_family) + (not same_script)]


def _cross_lingual_pairs(result: EvaluationResult, column: Column) -> Pairs:
    """The measure of each cross-lingual pair with a finite value, before rounding."""
    return {
        (question, passage): measures[column.measure]
        for question, row in result.pairs.items()
        for passage, measures in row.items()
        if question != passage and column.round(measures.get(column.measure)) is not None
    }


def _group_means(values: Pairs, group_of: Callable[[str, str], Any]) -> dict[Any, float]:
    """Group → mean over its pairs."""
    groups: dict[Any, list[float]] = {}
    for pair, value in values.items():
        groups.setdefault(group_of(*pair), []).append(value)
    return {group: float(np.mean(members)) for group, members in groups.items()}


@dataclass(frozen=True)
class LanguageBias:
    """Measures of the language bias in the pool, and the languages of its first passages."""

    table: Table
    by_language: Table | None
    shares: HeatMaps | None
    """Question language × language of the first ten passages."""
    pool: str
    """Smallest and largest share of a language in the pool, as text."""


def language_bias(comparison: Comparison) -> LanguageBias | None:
    """The bias of all systems; None if no result has a measure of it, as for one language or a bitext."""
    results = [system.result for system in comparison.systems]
    columns = [column for column in BIAS_COLUMNS if any(column.value(result) is not None for result in results)]
    if not columns:
        return None
    by_column = [comparison.row(column, [column.value(result) for result in results]) for column in columns]
    rows = [
        [system_cell(system), *map(measured, cells)]
        for system, *cells in zip(comparison.systems, *by_column, strict=True)
    ]
    table = Table([Cell("System"), *_headings(columns)], rows, comparison.task)
    languages = _language_table(comparison, columns, MULTILINGUAL)
    return LanguageBias(table, languages, _share_maps(comparison), _pool_shares(comparison))


def _share_maps(comparison: Comparison) -> HeatMaps | None:
    results = [system.result for system in comparison.systems]
    languages = list(dict.fromkeys(tag for result in results for tag in result.languages))
    names = languages[:MAX_LANGUAGES]
    grids = [[[result.language_share.get(q, {}).get(p) for p in names] for q in names] for result in results]
    return heat_maps(comparison, grids, names, "share of the first ten", len(languages) - len(names))


def _pool_shares(comparison: Comparison) -> str:
    # All systems of a comparison have the same documents, so the first one stands for all.
    counts = sorted((num, tag) for tag, num in comparison.systems[0].result.num_documents.items() if num)
    total = sum(num for num, _ in counts)
    return " to ".join(f"{AP.text(num / total)} ({english_name(tag)})" for num, tag in (counts[0], counts[-1]))


def task_size(comparison: Comparison) -> Table:
    """Queries and documents by language."""
    result = comparison.systems[0].result
    rows = [
        [language_cell(tag), count(result.num_queries.get(tag)), count(result.num_documents.get(tag))]
        for tag in result.languages
    ]
    totals = [Cell("all"), count(sum(result.num_queries.values())), count(sum(result.num_documents.values()))]
    headings = [Cell("Language"), number("Queries"), number("Documents")]
    return Table(headings, rows, comparison.task, "Queries and documents", totals=totals)


def evaluation_cost(comparison: Comparison) -> Table:
    """Time of each phase and peak memory of every evaluation."""
    phases = list(dict.fromkeys(phase for system in comparison.systems for phase in system.result.seconds))
    rows = []
    for system in comparison.systems:
        result = system.result
        memory = number(size(result.peak_memory_bytes) if result.peak_memory_bytes else MISSING)
        name = Cell(system.label, aside=result.fingerprint[:12])
        rows.append([name, *(_time(result.seconds.get(phase)) for phase in phases), memory])
    columns = [*(phase.capitalize() for phase in phases), "Peak memory of a process"]
    headings = [Cell("System"), *map(number, columns)]
    return Table(headings, rows, comparison.task, "Cost of the evaluation", is_sortable=False)


def _time(seconds: float | None) -> Cell:
    return number(MISSING if seconds is None or not math.isfinite(seconds) else duration(seconds))
