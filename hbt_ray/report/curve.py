"""The record of a training run: one row a step, as the metrics file has it, in arrays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
KINDS = ("mono", "cross", "mixed")
NUMBERS = ("loss", "learning_rate", "pairs_per_second", "stall_seconds")


@dataclass(frozen=True)
class Curve:
    """Sorted by step, each step once; a number that is missing is NaN."""

    steps: NDArray[np.int64]
    kinds: NDArray[np.str_]
    languages: tuple[str, ...]
    numbers: Mapping[str, Floats]

    @classmethod
    def read(cls, rows: Sequence[Mapping[str, Any]]) -> Curve:
        """After a resume a step may occur twice: the last row is the one that the weights come from."""
        last = {int(row["step"]): row for row in rows if row.get("step") is not None}
        ordered = [last[step] for step in sorted(last)]
        return cls(
            steps=np.array(sorted(last), dtype=np.int64),
            kinds=np.array([str(row.get("kind") or "") for row in ordered], dtype=np.str_),
            languages=tuple(str(row.get("language") or "") for row in ordered),
            numbers={name: np.array([_number(row.get(name)) for row in ordered]) for name in NUMBERS},
        )

    @cached_property
    def num_steps(self) -> int:
        """Steps done: the last number, plus one where counting began at 0."""
        return int(self.steps[-1]) + (int(self.steps[0]) == 0) if len(self.steps) else 0

    def series(self, name: str, kind: str | None = None) -> tuple[Floats, Floats]:
        """Steps and values where the value is finite, of one kind of batch or of all."""
        keep = np.isfinite(self.numbers[name])
        if kind is not None:
            keep &= self.kinds == kind
        return self.steps[keep].astype(np.float64), self.numbers[name][keep]

    @property
    def mono_share(self) -> tuple[Floats, Floats]:
        """Share of monolingual batches among all batches up to a step."""
        known = np.isin(self.kinds, KINDS)
        mono = np.cumsum(self.kinds[known] == "mono")
        return self.steps[known].astype(np.float64), mono / np.arange(1, len(mono) + 1)

    @property
    def mono_batches(self) -> dict[str, int]:
        """Language → monolingual batches, the most frequent first."""
        counts = Counter(tag for tag, kind in zip(self.languages, self.kinds, strict=True) if kind == "mono" and tag)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def smooth(values: Floats, width: int) -> Floats:
    """Centred running mean; the window shrinks at both ends, so that no end is pulled towards zero."""
    half = width // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: Floats = (total[stop] - total[start]) / (stop - start)
    return mean
