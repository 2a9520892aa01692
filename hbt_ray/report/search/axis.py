"""The axis of what is varied: numbers, numbers over orders of magnitude, or names side by side."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hbt_ray.report.chart import Scale, tick_label
from hbt_ray.report.search import labels as words
from hbt_ray.tune.state import is_number

_LOG_FROM = 8
"""Largest by smallest value, below which it does not matter."""
_MARGIN = 0.05
_ROOM = 0.07
"""Of the axis, that one label needs."""
_LETTERS = 40
"""Of all labels, that a telephone shows in a line; more are slanted."""
_LONGEST = 24


@dataclass(frozen=True)
class Axis:
    """Where values stand, and what is written below."""

    kind: str
    """`linear`, `log` or `names`."""
    scale: Scale
    """Of positions."""
    marks: tuple[tuple[float, str], ...]
    """Per cent of the axis, label."""
    names: tuple[str, ...] = ()
    num_values: int = 0

    @classmethod
    def over(cls, values: Sequence[Any]) -> Axis:
        """Of at least one value."""
        if not all(map(is_number, values)):
            return cls._of_names(list(dict.fromkeys(map(words.value, values))))
        numbers = sorted({float(value) for value in values})
        kind = "log" if _are_factors(numbers) else "linear"
        places = [_place(kind, number) for number in numbers]
        margin = (places[-1] - places[0]) * _MARGIN or abs(places[0]) * 0.1 or 0.5
        scale = Scale(places[0] - margin, places[-1] + margin, ())
        return cls(kind, scale, _marks(kind, scale, numbers), num_values=len(numbers))

    @classmethod
    def _of_names(cls, names: list[str]) -> Axis:
        scale = Scale(-0.5, len(names) - 0.5, ())
        marks = tuple((_share(scale, i), _cut(name)) for i, name in enumerate(names))
        return cls("names", scale, marks, tuple(names), len(names))

    def place(self, value: Any) -> float:
        """The position, of the scale, of one of the values."""
        return float(self.names.index(words.value(value))) if self.kind == "names" else _place(self.kind, float(value))

    @property
    def is_slanted(self) -> bool:
        """Labels are too long to stand side by side."""
        return sum(len(label) + 2 for _, label in self.marks) > _LETTERS


def _are_factors(numbers: Sequence[float]) -> bool:
    """Whether the middle value lies in the middle by factors rather than by differences."""
    low, middle, high = numbers[0], statistics.median(numbers), numbers[-1]
    if low <= 0 or high / low < _LOG_FROM:
        return False
    by_factor, by_difference = math.log(middle / low) / math.log(high / low), (middle - low) / (high - low)
    return abs(by_factor - 0.5) < abs(by_difference - 0.5)


def _place(kind: str, number: float) -> float:
    return math.log10(number) if kind == "log" else number


def _marks(kind: str, scale: Scale, numbers: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """The values themselves where their labels have room, else round numbers."""
    shares = [_share(scale, _place(kind, number)) for number in numbers]
    gaps = [after - before for before, after in itertools.pairwise(shares)]
    if min(gaps, default=100) < 100 * _ROOM:
        numbers = _round_numbers(kind, numbers)
    return tuple((_share(scale, _place(kind, number)), tick_label(number)) for number in numbers)


def _round_numbers(kind: str, numbers: Sequence[float]) -> Sequence[float]:
    low, high = numbers[0], numbers[-1]
    if kind == "linear":
        return Scale.over(low, high, widen=False).ticks
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # As many in each power of ten as there is room for.
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) <= 6:
            break
    return found or (low, high)


def _share(scale: Scale, place: float) -> float:
    return round(100 * (place - scale.low) / (scale.high - scale.low), 2)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
