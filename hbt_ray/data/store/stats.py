"""The census of a store: what is there, in tables for people and in plain values for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from hbt_ray.console import printable
from hbt_ray.data.index.manifest import Manifest
from hbt_ray.data.index.permutation import make_key, permute
from hbt_ray.data.store.figure import compact
from hbt_ray.data.store.store import Store, StoredItem
from hbt_ray.languages.tags import english_name
from hbt_ray.storage.location import filesystem, patiently

MAX_LANGUAGES, MAX_DATASETS = 20, 8
"""Of the table on the terminal; the picture has all."""


@dataclass(frozen=True, slots=True)
class DatasetCensus:
    """A dataset in numbers."""

    name: str
    items: int
    rows: int
    """Items × their languages."""
    languages: dict[str, int]
    """Language → items, most first."""
    shards: int
    bytes: int | None
    """Of all shards; None where one is missing."""
    licences: tuple[str, ...]
    sources: tuple[str, ...]


def census(manifest: Manifest, location: str) -> list[DatasetCensus]:
    """Of every dataset of a store, the largest first."""
    sizes = _sizes(location, [shard.file for info in manifest.datasets for shard in info.shards])
    found = []
    for info in manifest.datasets:
        counts = sorted(info.items_by_language.items(), key=lambda pair: (-pair[1], pair[0]))
        parts = [sizes[shard.file] for shard in info.shards]
        known = [size for size in parts if size is not None]
        found.append(
            DatasetCensus(
                name=info.name,
                items=info.num_items,
                rows=sum(count for _, count in counts),
                languages=dict(counts),
                shards=len(info.shards),
                bytes=sum(known) if len(known) == len(parts) else None,
                licences=info.licences,
                sources=info.sources,
            )
        )
    return sorted(found, key=lambda one: (-one.rows, one.name))


def plain(things: Sequence[DatasetCensus | StoredItem]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(thing) for thing in things]


def dataset_table(datasets: list[DatasetCensus]) -> Table:
    """One line a dataset, and their sum."""
    table = _table("data set")
    for column in ("items", "rows", "languages", "shards", "size"):
        table.add_column(column, justify="right")
    table.add_column("licences", overflow="fold")
    table.add_column("sources", overflow="fold")
    for one in datasets:
        counts = (f"{one.items:,}", f"{one.rows:,}", str(len(one.languages)), f"{one.shards:,}", _size(one.bytes))
        table.add_row(Text(one.name), *counts, Text(", ".join(one.licences)), Text(", ".join(one.sources)))
    if len(datasets) > 1:
        languages = {language for one in datasets for language in one.languages}
        sizes = [one.bytes for one in datasets if one.bytes is not None]
        total = _size(sum(sizes) if len(sizes) == len(datasets) else None)
        items, rows = (sum(getattr(one, what) for one in datasets) for what in ("items", "rows"))
        shards = sum(one.shards for one in datasets)
        table.add_row("all", f"{items:,}", f"{rows:,}", str(len(languages)), f"{shards:,}", total, style="bold")
    return table


def language_table(datasets: list[DatasetCensus]) -> Table:
    """Languages × datasets, items; those with few are summed up in the last line and column."""
    totals: dict[str, int] = {}
    for one in datasets:
        for language, count in one.languages.items():
            totals[language] = totals.get(language, 0) + count
    languages = sorted(totals, key=lambda language: (-totals[language], language))
    shown, others = datasets[:MAX_DATASETS], datasets[MAX_DATASETS:]
    table = _table("language")
    for name in [one.name for one in shown] + [f"{len(others)} others"] * bool(others) + ["all"]:
        table.add_column(Text(name), justify="right")
    # One language more takes no more room than a line that says that there is one more.
    cut = MAX_LANGUAGES if len(languages) > MAX_LANGUAGES + 1 else len(languages)
    lines = [(_label(language), [language]) for language in languages[:cut]]
    if left := languages[cut:]:
        lines.append((Text(f"{len(left)} others"), left))
    columns = [*([one] for one in shown), *([others] if others else []), datasets]
    for label, tags in lines:
        counts = [_items(column, tags) for column in columns]
        table.add_row(label, *(compact(count) if count else "" for count in counts))
    return table


def sample(store: Store, number: int) -> list[StoredItem]:
    """Whole items, dataset by dataset in turn, always the same ones."""
    pools = [(info.name, info.num_items) for info in store.manifest.datasets]
    picked: list[StoredItem] = []
    for turn in range(max((size for _, size in pools), default=0)):
        for name, size in pools:
            if turn < size and len(picked) < number:
                which = permute(make_key("sample", name), np.array([turn]), size)
                picked.append(store.item(name, int(which[0])))
        if len(picked) == number:
            break
    return picked


def item_text(item: StoredItem) -> Text:
    """An item to be read."""
    text = Text(f"\n{printable(item.dataset)} / {printable(item.item_id)}", style="bold")
    text.append(f"  passage {printable(item.passage_id)}" if item.passage_id else "", style="dim")
    for language, sides in item.texts.items():
        if sides.get("question") == sides.get("passage"):  # A sentence, which is asked for by its translations.
            sides = {"both": sides["question"]}
        for side, words in sides.items():
            text.append(f"\n{language:>8} {side:<8} ", style="not bold dim").append(printable(words), style="not bold")
    return text


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    return table


def _label(language: str) -> Text:
    name = english_name(language)
    return Text.assemble(language, ("" if name == language else f" {name}", "dim"))


def _items(datasets: list[DatasetCensus], languages: list[str]) -> int:
    return sum(one.languages.get(language, 0) for one in datasets for language in languages)


def _size(num_bytes: int | None) -> str:
    return "?" if num_bytes is None else decimal(num_bytes)


def _sizes(location: str, files: list[str]) -> dict[str, int | None]:
    """Bytes of each file of a store; None where there is none."""
    system, root = filesystem(location)
    paths = [f"{root.rstrip('/')}/{file}" for file in files]
    infos = patiently(lambda: system.get_file_info(paths), location)
    return {file: info.size for file, info in zip(files, infos, strict=True)}
