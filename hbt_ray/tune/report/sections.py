"""What the page says besides objectives and trials: the critical batch size, and which key matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hbt_ray.evaluate.report.chart import Chart
from hbt_ray.tune.board import Board
from hbt_ray.tune.critical import Unfit, critical_batch
from hbt_ray.tune.importance import importance
from hbt_ray.tune.report import words
from hbt_ray.tune.report.critical import figure
from hbt_ray.tune.settings import TuneConfig
from hbt_ray.tune.space import Space


@dataclass(frozen=True)
class Section:
    """Something more that was found, between the figures and the trials."""

    title: str
    summary: str
    """What was found, in a sentence or two."""
    figures: Sequence[tuple[Chart, str]] = ()
    """With what their horizontal axis shows."""
    html: Markup | None = None
    """A table, say. The page shows it as it is: who makes it escapes what it holds."""


def sections(board: Board, space: Space, settings: TuneConfig) -> Iterator[Section]:
    """Those for which the search has something."""
    if space.batch_sizes:
        yield _critical(board, settings.objectives[0])
    if len(space.search) > 1 and board.finished:
        yield _importance(board, settings.objectives)


def _critical(board: Board, objective: str) -> Section:
    found = critical_batch(board.trials, objective)
    if isinstance(found, Unfit):
        return Section("Critical batch size", f"It cannot be said: {found.reason}")
    return Section("Critical batch size", found.text, html=Markup(figure(found)))


def _importance(board: Board, objectives: Sequence[str]) -> Section:
    shares = {name: {one.key: one.share for one in importance(board.finished, name)} for name in objectives}
    keys = list(dict.fromkeys(key for found in shares.values() for key in found))
    head = Markup("").join(Markup("<th>{}</th>").format(words.label(name)) for name in objectives)
    rows = Markup("").join(
        Markup("<tr><th>{}</th>{}</tr>").format(
            key, Markup("").join(Markup("<td>{}</td>").format(_percent(shares[name].get(key))) for name in objectives)
        )
        for key in keys
    )
    table = Markup('<div class="scroll"><table class="sheet"><thead><tr><th>key</th>{}</tr></thead><tbody>{}</tbody>'
                   "</table></div>").format(head, rows)  # fmt: skip
    told = (
        "The share of an objective's variance over finished trials that each key explains by itself: between its "
        "values where it has few (eta²), by ranks where it is drawn (Spearman's rho²). Keys that only matter together "
        "show little."
    )
    return Section("Which key matters", told, html=table)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
