"""The table of all trials: shaded cells show at a glance which values go with which objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hbt_ray.report.heat_map import LEVELS
from hbt_ray.report.labels import duration
from hbt_ray.report.search import labels as words
from hbt_ray.report.search.axis import Axis
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.space import SEED
from hbt_ray.tune.state import SearchState, Trial, is_number

_ORDER = ("finished", "stopped", "running", "failed")


@dataclass(frozen=True)
class TrialCell:
    text: str
    sort: str
    """What the column is sorted by; empty sorts last."""
    style: str = ""
    """CSS classes: the level of the shade, `number`."""


@dataclass(frozen=True)
class TrialRow:
    trial: Trial
    values: tuple[TrialCell, ...]
    figures: tuple[TrialCell, ...]
    time: str

    @property
    def cause(self) -> str:
        return self.trial.error if self.trial.status == "failed" else ""


@dataclass(frozen=True)
class TrialTable:
    keys: tuple[tuple[str, bool], ...]
    """Name, whether it has numbers."""
    objectives: tuple[tuple[str, bool], ...]
    """Label, whether lower is better."""
    rows: tuple[TrialRow, ...]


def trial_table(board: SearchState, objectives: Sequence[str]) -> TrialTable:
    """The finished trials first, the best of the first objective at the top; those that failed are the last."""
    keys = list(dict.fromkeys(key for trial in board.trials for key in trial.values))
    trials = sorted(board.trials, key=lambda trial: _order(trial, objectives[0]))
    columns = {key: _of_values([trial.values.get(key) for trial in trials], key != SEED) for key in keys}
    figures = {name: _of_figures(trials, name) for name in objectives}
    rows = tuple(
        TrialRow(
            trial,
            tuple(columns[key][i] for key in keys),
            tuple(figures[name][i] for name in objectives),
            duration(trial.seconds_until(board.last)),
        )
        for i, trial in enumerate(trials)
    )
    return TrialTable(
        tuple((key, all("number" in cell.style for cell in columns[key])) for key in keys),
        tuple((words.label(name), name in LOWER_IS_BETTER) for name in objectives),
        rows,
    )


def _order(trial: Trial, objective: str) -> tuple[int, float]:
    value = trial.last(objective)
    if value is None or not math.isfinite(value):
        return _ORDER.index(trial.status), math.inf
    return _ORDER.index(trial.status), value if objective in LOWER_IS_BETTER else -value


def _of_values(values: Sequence[Any], shaded: bool) -> list[TrialCell]:
    """Numbers are shaded from the least to the greatest, by factors where they span orders of magnitude."""
    if not all(map(is_number, values)):
        return [TrialCell(words.value(value), words.value(value), "words") for value in values]
    places = [Axis.over(values).place(value) for value in values]
    return [
        TrialCell(words.value(value), repr(value), f"number {shade}".strip())
        for value, shade in zip(values, _shades(places) if shaded else [""] * len(values), strict=True)
    ]


def _of_figures(trials: Sequence[Trial], objective: str) -> list[TrialCell]:
    """Shaded from the worst to the best finished trial; others are at other steps, so they cannot be compared."""
    sign = -1 if objective in LOWER_IS_BETTER else 1
    last = [trial.last(objective) for trial in trials]
    known = [value if value is not None and math.isfinite(value) else None for value in last]
    compared = [
        sign * value if value is not None and trial.status == "finished" else None
        for trial, value in zip(trials, known, strict=True)
    ]
    return [
        TrialCell(words.figure(objective, value), "" if value is None else repr(value), f"number {shade}".strip())
        for value, shade in zip(known, _shades(compared), strict=True)
    ]


def _shades(values: Sequence[float | None]) -> list[str]:
    known = [value for value in values if value is not None]
    if not known or min(known) == max(known):
        return [""] * len(values)
    low, span = min(known), max(known) - min(known)
    return ["" if value is None else f"h{round((value - low) / span * (LEVELS - 1))}" for value in values]
