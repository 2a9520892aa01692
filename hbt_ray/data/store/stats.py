"""Statistics of a store: items, languages, sizes and licences by dataset, as values and as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from hbt_ray.console import printable
from hbt_ray.data.index.manifest import Manifest
from hbt_ray.data.index.permutation import make_key, permute
from hbt_ray.data.store.store import Store, StoredItem
from hbt_ray.languages.tags import english_name
from hbt_ray.storage.object_store import filesystem, with_retries

# Limits of the table on the terminal; `--json` has every language and dataset.
MAX_LANGUAGES, MAX_DATASETS = 20, 8


@dataclass(frozen=True, slots=True)
class DatasetStats:
    """Size and origin of one dataset of a store."""

    name: str
    items: int
    rows: int
    """Number of (item, language) combinations."""
    languages: dict[str, int]
    """Language → items, the most frequent language first."""
    shards: int
    bytes: int | None
    """Size of all shards; None if a shard is missing."""
    licences: tuple[str, ...]
    sources: tuple[str, ...]


def dataset_stats(manifest: Manifest, location: str) -> list[DatasetStats]:
    """Statistics of every dataset of the store at `location`, the largest dataset first."""
    shard_bytes = _file_sizes(location, [shard.file for info in manifest.datasets for shard in info.shards])
    stats = []
    for info in manifest.datasets:
        counts = sorted(info.items_by_language.items(), key=lambda pair: (-pair[1], pair[0]))
        sizes = [shard_bytes[shard.file] for shard in info.shards]
        stats.append(
            DatasetStats(
                name=info.name,
                items=info.num_items,
                rows=sum(count for _, count in counts),
                languages=dict(counts),
                shards=len(info.shards),
                bytes=None if None in sizes else sum(filter(None, sizes)),
                licences=info.licences,
                sources=info.sources,
            )
        )
    return sorted(stats, key=lambda dataset: (-dataset.rows, dataset.name))


def dataset_table(stats: Sequence[DatasetStats]) -> Table:
    """A table with one line per dataset, and a line with the totals if there are several."""
    table = _empty_table("dataset")
    for column in ("items", "rows", "languages", "shards", "size"):
        table.add_column(column, justify="right")
    table.add_column("licences", overflow="fold")
    table.add_column("sources", overflow="fold")
    for dataset in stats:
        counts = (f"{dataset.items:,}", f"{dataset.rows:,}", str(len(dataset.languages)), f"{dataset.shards:,}")
        origin = (Text(", ".join(dataset.licences)), Text(", ".join(dataset.sources)))
        table.add_row(Text(dataset.name), *counts, _size([dataset.bytes]), *origin)
    if len(stats) > 1:
        items, rows, shards = (
            sum(getattr(dataset, field) for dataset in stats) for field in ("items", "rows", "shards")
        )
        languages = {language for dataset in stats for language in dataset.languages}
        size = _size([dataset.bytes for dataset in stats])
        table.add_row("all", f"{items:,}", f"{rows:,}", str(len(languages)), f"{shards:,}", size, style="bold")
    return table


def language_table(stats: Sequence[DatasetStats]) -> Table:
    """A table of items by language and dataset; rare languages and small datasets are summed up as "others"."""
    totals: Counter[str] = Counter()
    for dataset in stats:
        totals.update(dataset.languages)
    languages = sorted(totals, key=lambda language: (-totals[language], language))
    shown, others = stats[:MAX_DATASETS], stats[MAX_DATASETS:]
    table = _empty_table("language")
    # `* bool(…)`: the column exists only if datasets are left out.
    for name in [dataset.name for dataset in shown] + [f"{len(others)} others"] * bool(others) + ["all"]:
        table.add_column(Text(name), justify="right")
    lines = [(_language_label(language), [language]) for language in languages[:MAX_LANGUAGES]]
    if rare := languages[MAX_LANGUAGES:]:
        lines.append((Text(f"{len(rare)} others"), rare))
    # Datasets that are summed in each column of the table.
    columns = [*([dataset] for dataset in shown), *([others] if others else []), stats]
    for label, tags in lines:
        counts = [sum(dataset.languages.get(tag, 0) for dataset in column for tag in tags) for column in columns]
        table.add_row(label, *(compact(count) if count else "" for count in counts))
    return table


def compact(number: int) -> str:
    """Shorten a number to at most five characters: `12345` → `12.3k`."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            share = number / size
            # From 99.95 on, one decimal would give `100.0`.
            return (f"{share:.1f}".removesuffix(".0") if share < 99.95 else f"{share:.0f}") + unit
    return str(number)


def sample_items(store: Store, number: int) -> list[StoredItem]:
    """Draw whole items, one from each dataset in turn. The same store always gives the same items."""
    infos = store.manifest.datasets
    largest = max((info.num_items for info in infos), default=0)
    # Lazy, because a dataset may have a billion items; `islice` takes the first few.
    turns = ((info, turn) for turn in range(largest) for info in infos if turn < info.num_items)
    return [
        store.item(info.name, int(permute(make_key("sample", info.name), np.array([turn]), info.num_items)[0]))
        for info, turn in islice(turns, number)
    ]


def item_text(item: StoredItem) -> Text:
    """The texts of an item in all of its languages, for the terminal."""
    text = Text(f"\n{printable(item.dataset)} / {printable(item.item_id)}", style="bold")
    text.append(f"  passage {printable(item.passage_id)}" if item.passage_id else "", style="dim")
    for language, sides in item.texts.items():
        if sides.get("question") == sides.get("passage"):  # A sentence of a bitext is both.
            sides = {"both": sides["question"]}
        for side, content in sides.items():
            text.append(f"\n{language:>8} {side:<8} ", style="not bold dim").append(
                printable(content), style="not bold"
            )
    return text


def _empty_table(first_column: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first_column)
    return table


def _language_label(language: str) -> Text:
    name = english_name(language)
    return Text.assemble(language, ("" if name == language else f" {name}", "dim"))


def _size(sizes: Sequence[int | None]) -> str:
    return "?" if None in sizes else decimal(sum(filter(None, sizes)))


def _file_sizes(location: str, files: list[str]) -> dict[str, int | None]:
    """File → bytes; None for a file that is missing."""
    system, root = filesystem(location)
    paths = [f"{root.rstrip('/')}/{file}" for file in files]
    infos = with_retries(lambda: system.get_file_info(paths), location)
    return {file: info.size for file, info in zip(files, infos, strict=True)}
