"""What was judged, and at what price: queries, documents, time and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hbt_ray.evaluate.compare.column import MISSING
from hbt_ray.evaluate.compare.table import Comparison
from hbt_ray.evaluate.report.names import duration, listing, size


@dataclass(frozen=True)
class TaskFacts:
    languages: tuple[tuple[str, str, str], ...]
    """Language, queries, documents."""
    total: tuple[str, str]
    phases: tuple[str, ...]
    costs: tuple[tuple[str, str, tuple[str, ...], str], ...]
    """System, fingerprint, time of each phase, peak memory."""
    warning: str
    """Said where systems were not judged on the same data."""


def facts(comparison: Comparison) -> TaskFacts:
    first = comparison.systems[0].verdict
    phases = tuple(dict.fromkeys(phase for system in comparison.systems for phase in system.verdict.seconds))
    costs = []
    for system in comparison.systems:
        verdict = system.verdict
        times = tuple(_time(verdict.seconds.get(phase)) for phase in phases)
        memory = size(verdict.peak_memory_bytes) if verdict.peak_memory_bytes else MISSING
        costs.append((system.label, verdict.fingerprint[:12], times, memory))
    return TaskFacts(
        languages=tuple(
            (tag, _count(first.num_queries.get(tag)), _count(first.num_documents.get(tag))) for tag in first.languages
        ),
        total=(_count(sum(first.num_queries.values())), _count(sum(first.num_documents.values()))),
        phases=phases,
        costs=tuple(costs),
        warning=_warning(comparison),
    )


def _time(seconds: float | None) -> str:
    return MISSING if seconds is None or not math.isfinite(seconds) else duration(seconds)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _warning(comparison: Comparison) -> str:
    first = comparison.systems[0]
    strangers = [
        system.label
        for system in comparison.systems[1:]
        if (sorted(system.verdict.languages), system.verdict.num_queries, system.verdict.num_documents)
        != (sorted(first.verdict.languages), first.verdict.num_queries, first.verdict.num_documents)
    ]
    if not strangers:
        return ""
    names = listing(strangers)
    return f"Not judged on the same languages, queries or documents as {first.label}: {names}. Compare with care."
