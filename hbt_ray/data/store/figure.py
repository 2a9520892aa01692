"""The picture of a store: languages × datasets, as an SVG file that needs nothing else.

Colour is the logarithm of the number of items, so that a language of a hundred items and one of a million can both be
told from none; the number stands in the cell. It is readable with 140 languages (3,000 pixels high), light and dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

from hbt_ray.data.index.manifest import Manifest
from hbt_ray.errors import StoreError
from hbt_ray.languages.tags import english_name
from hbt_ray.palette import hex_code, level_colour

LEVELS = 25
_ROW, _CELL, _TEXT = 20, 58, 12
_CHARACTER = 6.6
"""Width of a letter of text, at most on average."""
_MARGIN = 20
_LEGEND = 220


@dataclass(frozen=True, slots=True)
class _Table:
    """What is drawn: the languages with most items first, datasets likewise."""

    languages: list[str]
    datasets: list[str]
    items: dict[tuple[str, str], int]
    """(language, dataset) → items."""

    def of_language(self, language: str) -> int:
        return sum(self.items.get((language, dataset), 0) for dataset in self.datasets)

    def of_dataset(self, dataset: str) -> int:
        return sum(self.items.get((language, dataset), 0) for language in self.languages)


def coverage_svg(manifest: Manifest) -> str:
    """How many items there are, by language and dataset."""
    table = _table(manifest)
    labels = [_label(language) for language in table.languages]
    left = _MARGIN + math.ceil(_CHARACTER * max([*map(len, labels), 20])) + 10
    slope = math.ceil(_CHARACTER * max([len(_short(name)) for name in table.datasets] + [5]) * 0.72) + 20
    top = _MARGIN + 62 + slope
    width = max(left + _CELL * (len(table.datasets) + 1), _LEGEND + 2 * _MARGIN, 420) + slope
    height = top + _ROW * (len(table.languages) + 1) + _MARGIN
    most = max(table.items.values(), default=1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-size="{_TEXT}" role="img" aria-label="Items by language and dataset">',
        f"<style>{_css()}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        *_head(table, manifest.num_items, most),
        *_column_names(table, left, top),
    ]
    for number, (language, label) in enumerate(zip(table.languages, labels, strict=True)):
        parts += _row(table, language, label, (left, top + _ROW * number), most)
    return "\n".join([*parts, *_sums(table, left, top + _ROW * len(table.languages)), "</svg>\n"])


def write_picture(manifest: Manifest, path: Path) -> None:
    """Raises: StoreError where `path` cannot be written."""
    try:
        path.write_text(coverage_svg(manifest), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: the figure cannot be written ({error.strerror}); give another path") from None


def compact(number: int) -> str:
    """`12345` → `12.3k`: at most five characters."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            share = number / size
            return (f"{share:.1f}".removesuffix(".0") if share < 99.95 else f"{share:.0f}") + unit
    return str(number)


def _table(manifest: Manifest) -> _Table:
    items = {
        (language, info.name): count for info in manifest.datasets for language, count in info.items_by_language.items()
    }
    table = _Table(list(manifest.languages), [info.name for info in manifest.datasets], items)
    languages = sorted(table.languages, key=lambda language: (-table.of_language(language), language))
    datasets = sorted(table.datasets, key=lambda dataset: (-table.of_dataset(dataset), dataset))
    return _Table(languages, datasets, items)


def _label(language: str) -> str:
    name = english_name(language)
    return language if name == language else f"{_short(name)} {language}"


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"


def _head(table: _Table, num_items: int, most: int) -> list[str]:
    languages, datasets = len(table.languages), len(table.datasets)
    counts = f"{num_items:,} items in {languages} language{'s' * (languages != 1)}, " + (
        f"{datasets} dataset{'s' * (datasets != 1)}"
    )
    step = _LEGEND / LEVELS
    y = _MARGIN + 30
    ramp = [
        f'<rect class="h{level}" x="{_MARGIN + level * step:.1f}" y="{y}" width="{step + 0.3:.1f}" height="10"/>'
        for level in range(LEVELS)
    ]
    marks = [10**power for power in range(len(str(most))) if 10**power <= most]
    ticks = [
        f'<text class="dim" font-size="10" x="{_MARGIN + _LEGEND * _share(mark, most):.0f}" y="{y + 21}">'
        f"{compact(mark)}</text>"
        for mark in marks
    ]
    return [f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 15}">{escape(counts)}</text>', *ramp, *ticks]


def _column_names(table: _Table, left: int, top: int) -> list[str]:
    names = [*table.datasets, "total"]
    return [
        f'<text class="{"dim" if name == "total" and column == len(table.datasets) else "name"}" '
        f'transform="translate({left + _CELL * column + _CELL // 2 - 4} {top - 8}) rotate(-45)">'
        f"{escape(_short(name))}<title>{escape(name)}</title></text>"
        for column, name in enumerate(names)
    ]


def _row(table: _Table, language: str, label: str, corner: tuple[int, int], most: int) -> list[str]:
    left, y = corner
    base = y + _ROW - 6
    name, _, tag = label.rpartition(" ")
    code = f'<tspan class="dim">{escape(tag)}</tspan>'
    parts = [f'<text class="name end" x="{left - 8}" y="{base}">{escape(name)} {code}</text>']
    for column, dataset in enumerate(table.datasets):
        count, x = table.items.get((language, dataset), 0), left + _CELL * column
        if not count:
            continue
        title = escape(f"{english_name(language)} in {dataset}: {count:,} items")
        level = round((LEVELS - 1) * _share(count, most))
        parts += [
            f'<g><rect class="h{level}" x="{x}" y="{y}" width="{_CELL - 1}" height="{_ROW - 1}"/>',
            f'<text class="cell" x="{x + _CELL // 2}" y="{base}">{compact(count)}</text><title>{title}</title></g>',
        ]
    total = compact(table.of_language(language))
    x = left + _CELL * len(table.datasets) + _CELL - 8
    return [*parts, f'<text class="dim end" x="{x}" y="{base}">{total}</text>']


def _sums(table: _Table, left: int, y: int) -> list[str]:
    """Rows are counted here: an item counts once in every language."""
    counts = [*(table.of_dataset(dataset) for dataset in table.datasets), sum(table.items.values())]
    return [
        f'<text class="dim end" x="{left - 8}" y="{y + _ROW - 4}">items × languages</text>',
        *(
            f'<text class="dim {"mid" if column < len(table.datasets) else "end"}" y="{y + _ROW - 4}" '
            f'x="{left + _CELL * column + (_CELL // 2 if column < len(table.datasets) else _CELL - 8)}">'
            f"{compact(count)}</text>"
            for column, count in enumerate(counts)
        ),
    ]


def _share(count: int, most: int) -> float:
    """0 at a single item, 1 at the most."""
    return math.log10(max(count, 1)) / max(math.log10(max(most, 1)), 1e-9) if most > 1 else 1.0


def _css() -> str:
    rules = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
        ".title{font-size:16px;font-weight:600}.end{text-anchor:end}.cell,.mid{text-anchor:middle}"
        ".cell{font-variant-numeric:tabular-nums;font-size:11px}"
    )
    return rules + _scheme(dark=False) + f"@media (prefers-color-scheme:dark){{{_scheme(dark=True)}}}"


def _scheme(*, dark: bool) -> str:
    page, ink, dim = ("#14171c", "#e8e8e8", "#9aa3ad") if dark else ("#ffffff", "#1c1c1c", "#5f6770")
    levels = "".join(
        f".h{level}{{fill:{hex_code(level_colour(level / (LEVELS - 1), dark))}}}" for level in range(LEVELS)
    )
    cell = "#ffffff" if dark else "#000000"
    return f".page{{fill:{page}}}text{{fill:{ink}}}.dim{{fill:{dim}}}.cell{{fill:{cell}}}{levels}"
