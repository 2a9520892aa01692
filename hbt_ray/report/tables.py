"""Tables as data. One template renders all of them, so every table of a page sorts, scrolls and prints alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.languages.tags import english_name
from hbt_ray.retrieval.compare import System, TableCell


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text with its style, sort key, notes and marks."""

    text: str
    style: str = ""
    """CSS classes, such as `number best`."""
    sort: float | str | None = None
    """Sort key of the cell; None means the text, and an empty string sorts last."""
    title: str = ""
    """Tooltip of the text."""
    aside: str = ""
    """Muted text on the same line."""
    notes: tuple[tuple[str, str], ...] = ()
    """Small print below the text: pairs of CSS class and text."""
    mark: str = ""
    """Tooltip of a dagger after the text; empty means no dagger."""
    bar: float | None = None
    """Length of a bar beside the text, from 0 to 1."""
    level: float | None = None
    """Position on the colour scale of the background, from 0 to 1."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the first cell of a row is its header."""

    headings: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    groups: Sequence[tuple[Cell, int]] = ()
    """Upper headings, from the second column on, each with the number of columns that it spans."""
    totals: Sequence[Cell] = ()
    style: str = ""
    """CSS classes."""
    is_sortable: bool = True


def number(text: str, sort: float | str | None = None, style: str = "") -> Cell:
    """A cell or heading of a column of numbers."""
    return Cell(text, f"number {style}".strip(), sort)


def count(value: int | None) -> Cell:
    """`13,090`, or a dash."""
    return number("–" if value is None else f"{value:,}", "" if value is None else value)


def language_cell(tag: str, with_name: bool = True) -> Cell:
    """`de German`, or `de`; the name is the tooltip of both."""
    return Cell(tag, title=english_name(tag), aside=english_name(tag) if with_name else "")


def system_cell(system: System) -> Cell:
    return Cell(system.label, notes=(("tag", "baseline"),) if system.is_baseline else ())


def measure_heading(label: str, lower_is_better: bool) -> Cell:
    """The name of a measure, with its direction if lower is better."""
    return Cell(label, "number", notes=(("same", "lower is better"),) if lower_is_better else ())


def measured(cell: TableCell, mark: str = "", bar: float | None = None) -> Cell:
    """A measure with its spread over seeds and its difference to the baseline."""
    notes = [("same", cell.spread)] if cell.spread else []
    if cell.change:
        notes.append(({True: "better", False: "worse", None: "same"}[cell.better], cell.change))
    style = "number best" if cell.best else "number"
    return Cell(cell.text, style, "" if cell.value is None else cell.value, notes=tuple(notes), mark=mark, bar=bar)
