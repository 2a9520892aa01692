"""Groups: trials that differ by their seed alone, and what they found on average.

The interval is Student's over the seeds' values: it says how far the mean would move with other initial weights and
dropout. The batches are the same in all of them, so it does not speak for other batches or other data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.space import SEED
from hbt_ray.tune.state import SearchState, Trial


@dataclass(frozen=True)
class SeedGroup:
    """Finished trials with the same values but for the seed."""

    values: dict[str, Any]
    """Without the seed."""
    trials: tuple[Trial, ...]

    def estimate(self, objective: str) -> SeedInterval | None:
        """None where no trial measured it; what is not finite counts as not measured."""
        last = [trial.last(objective) for trial in self.trials]
        values = [value for value in last if value is not None and math.isfinite(value)]
        return SeedInterval.of(values) if values else None


def seed_groups(board: SearchState, varied: str) -> list[SeedGroup]:
    """Of the finished trials, sorted by the varied value where all of them are numbers, else as they began."""
    found: dict[Any, list[Trial]] = {}
    for trial in board.finished:
        found.setdefault(trial.group, []).append(trial)
    made = [
        SeedGroup({key: value for key, value in first.values.items() if key != SEED}, (first, *others))
        for first, *others in found.values()
    ]
    if all(is_number(group.values.get(varied)) for group in made):
        made.sort(key=lambda group: float(group.values[varied]))
    return made


def ranked(found: Sequence[SeedGroup], objective: str) -> list[tuple[SeedGroup, SeedInterval]]:
    """The groups that measured an objective, the best mean first."""
    estimated = [(group, estimate) for group in found if (estimate := group.estimate(objective))]
    sign = 1 if objective in LOWER_IS_BETTER else -1
    return sorted(estimated, key=lambda pair: sign * pair[1].mean)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
