"""Estimates: a measure over the seeds of equal runs, and how far its mean would move with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedInterval:
    """A mean over seeds, with Student's interval."""

    values: tuple[float, ...]
    """One a seed."""
    mean: float
    interval: tuple[float, float] | None
    """Low and high; one seed has none."""

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedInterval:
        """Of at least one value."""
        mean = sum(values) / len(values)
        if len(values) < 2:
            return cls(tuple(values), mean, None)
        half = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        return cls(tuple(values), mean, (mean - half, mean + half))

    @property
    def half(self) -> float | None:
        """Of the interval's width."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    def overlaps(self, other: SeedInterval) -> bool | None:
        """Whether the intervals share a value; None where one of the two has none."""
        if self.interval is None or other.interval is None:
            return None
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]
