"""What the page says besides objectives and trials: the critical batch size, and which key matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hbt_ray.report.chart import Chart
from hbt_ray.report.html import page_environment
from hbt_ray.report.search import labels as words
from hbt_ray.report.search.critical_batch import critical_chart
from hbt_ray.retrieval.compare.column import MISSING
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.critical_batch import Unfit, critical_batch
from hbt_ray.tune.importance import Importance, importance
from hbt_ray.tune.space import Space
from hbt_ray.tune.state import SearchState

_BY_ITSELF = (
    "The share of an objective’s variance over finished trials that goes with a key by itself, whatever the others "
    "were: eta² between its values, or rho² of ranks where it has more than five numbers. The latter sees only what "
    "rises or falls: a key whose best value lies in the middle matters more than it says. In brackets what a key that "
    "does nothing shows on average with as many trials; shares near it say nothing. The seed is in none of them."
)


@dataclass(frozen=True)
class SearchSection:
    """Something more that was found, between the figures and the trials."""

    title: str
    summary: str
    """What was found, in a sentence or two."""
    figures: Sequence[tuple[Chart, str]] = ()
    """With what their horizontal axis shows."""
    html: Markup | None = None
    """A table, say. The page shows it as it is: who makes it escapes what it holds."""


@dataclass(frozen=True)
class SectionCell:
    share: str
    chance: str = ""
    sort: str = ""
    """What the column is sorted by; empty sorts last."""
    bar: str = "0"
    """Its length, from 0 to 1."""


@dataclass(frozen=True)
class SectionRow:
    """Of the table of importance: a key, its distinct values, trials that were measured, a cell for each objective."""

    key: str
    values: int
    trials: int
    cells: tuple[SectionCell, ...]


def sections(board: SearchState, space: Space, settings: TuneConfig) -> Iterator[SearchSection]:
    """Those for which the search has something."""
    if space.batch_sizes:
        yield _critical(board, settings.objectives[0])
    rows = importance_rows(board, settings.objectives)
    if len(rows) > 1:  # Of a single key the figures of the objectives tell all.
        yield _importance(rows, settings.objectives)


def _critical(board: SearchState, objective: str) -> SearchSection:
    title, found = "Critical batch size", critical_batch(board.trials, objective)
    if isinstance(found, Unfit):
        return SearchSection(title, f"It cannot be said: {found.reason}")
    how = (
        f" Steps are those until {words.label(objective)} is {words.figure(objective, found.target)}, the best value "
        "that every batch size reaches, each at the other values with which it needs the fewest. Below the critical "
        "size, batches twice as large need nearly half the steps; at it, 1.2 times what that promises (2410.21676)."
    )
    return SearchSection(title, found.text + how, [(critical_chart(found), "batch size")])


def _importance(rows: Sequence[SectionRow], objectives: Sequence[str]) -> SearchSection:
    html = (
        page_environment("hbt_ray.report.search")
        .get_template("importance.html.j2")
        .render(rows=rows, labels=[words.label(name) for name in objectives])
    )
    return SearchSection("Which key matters", _BY_ITSELF, html=Markup(html))  # The template escapes.


def importance_rows(board: SearchState, objectives: Sequence[str]) -> list[SectionRow]:
    """A row for every key that was searched and of which something can be said, the most important for the first
    objective on top."""
    found = [{one.key: one for one in importance(board.trials, name)} for name in objectives]
    rows = []
    for key in dict.fromkeys(key for shares in found for key in shares):
        known = [shares[key] for shares in found if key in shares]
        if any(one.share is not None for one in known):
            cells = tuple(_cell(shares.get(key)) for shares in found)
            rows.append(SectionRow(key, max(one.values for one in known), max(one.trials for one in known), cells))
    return rows


def _cell(one: Importance | None) -> SectionCell:
    if one is None or one.share is None or one.chance is None:
        return SectionCell(MISSING)
    return SectionCell(f"{one.share:.0%}", f"({one.chance:.0%})", repr(one.share), f"{one.share:.3f}")
