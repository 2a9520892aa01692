"""What was judged, and at what price: queries, documents, time and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hbt_ray.report.labels import duration, size
from hbt_ray.retrieval.compare import MISSING, Comparison

_OTHER_DATA = (
    "There are results on other queries, documents or judgements of a task with this name, so they are not compared."
)


@dataclass(frozen=True)
class DatasetStatistics:
    languages: tuple[tuple[str, str, str], ...]
    """Language, queries, documents."""
    total: tuple[str, str]
    phases: tuple[str, ...]
    costs: tuple[tuple[str, str, tuple[str, ...], str], ...]
    """System, fingerprint, time of each phase, peak memory."""
    notes: tuple[str, ...]
    """See `EvaluationResult.notes`."""
    warning: str
    """If another task of the report has the same name and other data."""


def facts(comparison: Comparison) -> DatasetStatistics:
    first = comparison.systems[0].result
    phases = tuple(dict.fromkeys(phase for system in comparison.systems for phase in system.result.seconds))
    costs = []
    for system in comparison.systems:
        result = system.result
        times = tuple(_time(result.seconds.get(phase)) for phase in phases)
        memory = size(result.peak_memory_bytes) if result.peak_memory_bytes else MISSING
        costs.append((system.label, result.fingerprint[:12], times, memory))
    return DatasetStatistics(
        languages=tuple(
            (tag, _count(first.num_queries.get(tag)), _count(first.num_documents.get(tag))) for tag in first.languages
        ),
        total=(_count(sum(first.num_queries.values())), _count(sum(first.num_documents.values()))),
        phases=phases,
        costs=tuple(costs),
        notes=tuple(first.notes),
        warning=_OTHER_DATA if comparison.task != first.task else "",
    )


def _time(seconds: float | None) -> str:
    return MISSING if seconds is None or not math.isfinite(seconds) else duration(seconds)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"
