"""Failures to read: the questions that a system got wrong, in their own words and scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.languages.families import family
from hbt_ray.report.heat_map import AP
from hbt_ray.retrieval.compare import Comparison, System
from hbt_ray.retrieval.result import MULTILINGUAL, Artifacts, find_artifacts

SHOWN = 12
_RIGHT_TO_LEFT = {"Adlm", "Arab", "Aran", "Hebr", "Mand", "Mani", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa"}


@dataclass(frozen=True)
class Words:
    text: str
    language: str

    @property
    def direction(self) -> str:
        """For the attribute `dir`."""
        return "rtl" if family(self.language).script in _RIGHT_TO_LEFT else "ltr"


@dataclass(frozen=True)
class Failure:
    question: Words
    gold: Words
    gold_rank: int
    first: Words
    precision: str
    before: str
    """The AP of the baseline; empty without one."""


@dataclass(frozen=True)
class FailureList:
    system: System
    is_loss: bool
    """Ordered by what was lost against the baseline; else the worst of each language."""
    num_recorded: int
    shown: tuple[Failure, ...]


def failure_lists(comparison: Comparison, evidence: Sequence[Artifacts]) -> list[FailureList]:
    """One for each system under judgement that has a table of failures with something in it.

    Raises:
        TaskError: a table is damaged.
    """
    baseline = find_artifacts(comparison.baseline.result, evidence) if comparison.baseline else None
    before = _precision(baseline.queries) if baseline else {}
    lists = []
    for system in comparison.candidates:
        own = find_artifacts(system.result, evidence)
        if own and own.failures is not None and own.failures.num_rows:
            lists.append(_list(system, own.failures.to_pylist(), before))
    return lists


def _precision(queries: pa.Table | None) -> dict[str, float]:
    """Query → AP in the pool."""
    if queries is None or AP.measure not in queries.column_names:
        return {}
    pooled = queries.filter(pc.equal(queries["setting"], MULTILINGUAL))
    return dict(zip(pooled["query_id"].to_pylist(), pooled[AP.measure].to_pylist(), strict=True))


def _list(system: System, rows: list[dict[str, Any]], before: dict[str, float]) -> FailureList:
    losses = [row for row in rows if before.get(row["query_id"], 0.0) > row["AP"]]
    chosen = sorted(losses, key=lambda row: row["AP"] - before[row["query_id"]]) if losses else _in_turns(rows)
    # Translations of a question fail together, and one of them says it all.
    items: dict[str, dict[str, Any]] = {}
    for row in chosen:
        items.setdefault(row["query_id"].removeprefix(f"{row['language']}_"), row)
    shown = tuple(_failure(row, before.get(row["query_id"])) for row in list(items.values())[:SHOWN])
    return FailureList(system, bool(losses), len(rows), shown)


def _in_turns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows from the worst on: first one of each language, then the second of each."""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[row["language"]])
        seen[row["language"]] += 1
    return [row for _, _, row in sorted(zip(turns, range(len(rows)), rows, strict=True), key=lambda entry: entry[:2])]


def _failure(row: dict[str, Any], before: float | None) -> Failure:
    return Failure(
        question=Words(row["question"], row["language"]),
        gold=Words(row["gold"], row["gold_language"]),
        gold_rank=row["gold_rank"],
        first=Words(row["first"], row["first_language"]),
        precision=AP.text(round(row["AP"], 3)),
        before="" if before is None else AP.text(round(before, 3)),
    )
