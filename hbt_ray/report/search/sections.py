"""Optional sections of a search's page, between the figures and the trials: the critical batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hbt_ray.report.chart import Chart
from hbt_ray.report.search import labels as words
from hbt_ray.report.search.critical_batch import critical_chart
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.critical_batch import NoFit, critical_batch
from hbt_ray.tune.space import Space
from hbt_ray.tune.state import SearchState


@dataclass(frozen=True)
class SearchSection:
    """Something more that was found, between the figures and the trials."""

    title: str
    summary: str
    """What was found, in a sentence or two."""
    figures: Sequence[tuple[Chart, str]] = ()
    """With what their horizontal axis shows."""


def sections(board: SearchState, space: Space, settings: TuneConfig) -> Iterator[SearchSection]:
    """Those for which the search has something."""
    if space.batch_sizes:
        yield _critical(board, settings.objectives[0])


def _critical(board: SearchState, objective: str) -> SearchSection:
    title, found = "Critical batch size", critical_batch(board.trials, objective)
    if isinstance(found, NoFit):
        return SearchSection(title, f"It cannot be said: {found.reason}")
    how = (
        f" Steps are those until {words.label(objective)} is {words.figure(objective, found.target)}, the best value "
        "that every batch size reaches, each at the other values with which it needs the fewest. Below the critical "
        "size, batches twice as large need nearly half the steps; at it, 1.2 times what that promises (2410.21676)."
    )
    return SearchSection(title, found.text + how, [(critical_chart(found), "batch size")])
