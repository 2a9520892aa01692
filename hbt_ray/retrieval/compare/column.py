"""Columns: which measures are shown, in the order of the tables of 2408.10536, and how their values are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hbt_ray.retrieval.measures import RANK_DISTANCE
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, EvaluationResult
from hbt_ray.retrieval.scoring.language_preference import MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION, SHARE_DISTANCE

MISSING = "–"
_LABELS = {
    RANK_DISTANCE: "rank distance",
    MAX_RANK: "worst rank",
    OWN_LANGUAGE_FIRST: "own language first",
    SHARE_DISTANCE: "share distance",
    RANK_CORRELATION: "agreement",
}
"""Of the measures of language bias, which belong to the pool, so that no setting needs to be named."""


@dataclass(frozen=True)
class Column:
    """One measure in one setting."""

    setting: str
    measure: str

    @property
    def counts_ranks(self) -> bool:
        """Whole numbers without an upper end."""
        return self.measure in (RANK_DISTANCE, MAX_RANK)

    @property
    def lower_is_better(self) -> bool:
        return self.counts_ranks or self.measure == SHARE_DISTANCE

    @property
    def has_better(self) -> bool:
        """Whether an end is the good one: of equal answers, users may well want that in their language first."""
        return self.measure != OWN_LANGUAGE_FIRST

    @property
    def label(self) -> str:
        return _LABELS.get(self.measure, self.measure)

    @property
    def short_setting(self) -> str:
        """For narrow places: `mono`, `cross`, `multi`."""
        return {MONOLINGUAL: "mono", CROSS_LINGUAL: "cross", MULTILINGUAL: "multi"}.get(self.setting, self.setting)

    @property
    def name(self) -> str:
        return self.label if self.measure in _LABELS else f"{self.setting} {self.label}"

    def of(self, measures: Mapping[str, float]) -> float | None:
        """The value as it is shown: three decimals, or a whole number of ranks; None where it is missing."""
        value = measures.get(self.measure)
        if value is None or not math.isfinite(value):
            return None
        return round(value, 0 if self.counts_ranks else 3) + 0.0

    def value(self, result: EvaluationResult) -> float | None:
        return self.of(result.settings.get(self.setting, {}))

    def text(self, value: float | None) -> str:
        """`.797`, `2,310`; a negative number gets a true minus sign."""
        if value is None:
            return MISSING
        digits = f"{abs(value):,.0f}" if self.counts_ranks else f"{abs(value):.3f}".removeprefix("0")
        return f"−{digits}" if value < 0 else digits

    def signed(self, difference: float | None) -> str:
        """`+.012`, `−84`, `±.000`."""
        if difference is None:
            return MISSING
        return ("+" if difference > 0 else "±" if difference == 0 else "") + self.text(difference)

    def is_better(self, value: float, other: float) -> bool:
        return value < other if self.lower_is_better else value > other

    def best(self, values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return (min if self.lower_is_better else max)(known, default=None)


COLUMNS = (
    Column(MONOLINGUAL, "AP"),
    Column(MONOLINGUAL, "R@1"),
    Column(CROSS_LINGUAL, "AP"),
    Column(CROSS_LINGUAL, "R@1"),
    Column(MULTILINGUAL, "AP"),
    Column(MULTILINGUAL, "R@10"),
    Column(MULTILINGUAL, RANK_DISTANCE),
)
