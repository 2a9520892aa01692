"""Examples of failures: questions whose first passage is wrong, with the texts in their own scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from hbt_ray.languages.families import family
from hbt_ray.languages.tags import english_name
from hbt_ray.report.heat_map import AP
from hbt_ray.retrieval.compare import Comparison, System
from hbt_ray.retrieval.result import MULTILINGUAL

MAX_SHOWN = 12
_RIGHT_TO_LEFT = {"Adlm", "Arab", "Aran", "Hebr", "Mand", "Mani", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa"}


@dataclass(frozen=True)
class LanguageText:
    """A text and the tag of its language."""

    text: str
    language: str

    @property
    def name(self) -> str:
        """English name of the language."""
        return english_name(self.language)

    @property
    def direction(self) -> str:
        """`rtl` or `ltr`, for the attribute `dir`."""
        return "rtl" if family(self.language).script in _RIGHT_TO_LEFT else "ltr"


@dataclass(frozen=True)
class Failure:
    """A question whose first passage is wrong."""

    question: LanguageText
    gold: LanguageText
    """The right passage with the best rank."""
    gold_rank: int
    first: LanguageText
    precision: str
    baseline_precision: str
    """AP of the baseline; empty without a baseline."""


@dataclass(frozen=True)
class FailureList:
    """The failures of one system."""

    system: System
    is_loss: bool
    """Whether the list shows the largest losses against the baseline; else it shows the worst of each language."""
    num_recorded: int
    shown: tuple[Failure, ...]


def failure_lists(comparison: Comparison) -> list[FailureList]:
    """One list for each system with recorded failures, except the baseline.

    Raises:
        TaskError: a table is damaged.
    """
    baseline_ap: dict[str, float] = {}
    table = comparison.baseline.result.queries if comparison.baseline else None
    if table is not None and AP.measure in table.column_names:
        pooled = table.filter(pc.equal(table["setting"], MULTILINGUAL))
        baseline_ap = dict(zip(pooled["query_id"].to_pylist(), pooled[AP.measure].to_pylist(), strict=True))
    return [
        _failure_list(system, table.to_pylist(), baseline_ap)
        for system in comparison.candidates
        if (table := system.result.failures) is not None and table.num_rows
    ]


def _failure_list(system: System, rows: list[dict[str, Any]], baseline_ap: dict[str, float]) -> FailureList:
    # A query that the baseline lacks is not a loss, since AP is never below 0.
    losses = [row for row in rows if baseline_ap.get(row["query_id"], 0.0) > row["AP"]]
    losses.sort(key=lambda row: row["AP"] - baseline_ap[row["query_id"]])
    # Translations of a question fail together, so one of them is enough.
    items: dict[str, dict[str, Any]] = {}
    for row in losses or _by_turns(rows):
        # The item of a query id, as in `significance.item_ids`.
        items.setdefault(row["query_id"].removeprefix(f"{row['language']}_"), row)
    shown = tuple(
        Failure(
            question=LanguageText(row["question"], row["language"]),
            gold=LanguageText(row["gold"], row["gold_language"]),
            gold_rank=row["gold_rank"],
            first=LanguageText(row["first"], row["first_language"]),
            precision=AP.text(AP.round(row["AP"])),
            baseline_precision=AP.text(AP.round(baseline_ap[row["query_id"]]))
            if row["query_id"] in baseline_ap
            else "",
        )
        for row in list(items.values())[:MAX_SHOWN]
    )
    return FailureList(system, bool(losses), len(rows), shown)


def _by_turns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reorder rows that are sorted worst first: the worst of each language, then the second worst of each, …"""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[row["language"]])
        seen[row["language"]] += 1
    # `sorted` is stable, so rows of one turn stay worst first.
    return [row for _, row in sorted(zip(turns, rows, strict=True), key=lambda pair: pair[0])]
