"""Prepare: sources → store.

Rows are checked, grouped into items by (dataset, item id), sorted into groups of equal languages, shuffled once within
each, and written. Every row is kept, or stands in `rejected.jsonl` with its reason (too many fail the run), or belongs
to an item that overlaps with the evaluation data and stands in `removed.jsonl`.
The store appears whole, by one rename, or not at all; preparing the same again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.manifest import Manifest
from hbt_ray.data.overlap import Overlap
from hbt_ray.data.rows import BadRow, Row, Source
from hbt_ray.data.shards import Item, write_dataset
from hbt_ray.data.sources.beir import BeirSource
from hbt_ray.data.sources.bitext import BitextSource
from hbt_ray.data.sources.files import fingerprint
from hbt_ray.data.sources.hub import HubSource
from hbt_ray.data.sources.miracl import MiraclSource
from hbt_ray.data.sources.mmarco import MmarcoSource
from hbt_ray.data.sources.squad import SquadSource
from hbt_ray.data.sources.table import TableSource
from hbt_ray.data.sources.worldfacts import Worldfacts
from hbt_ray.data.store import MANIFEST, read_manifest
from hbt_ray.errors import SourceError, StoreError
from hbt_ray.languages import normalise

REJECTED, REMOVED = "rejected.jsonl", "removed.jsonl"

AnySource = Annotated[
    Worldfacts | TableSource | SquadSource | BeirSource | MiraclSource | MmarcoSource | BitextSource | HubSource,
    Field(discriminator="kind"),
]

_DATASET_NAME = re.compile(rf"(?!{MANIFEST}$|{REJECTED}$|{REMOVED}$)\w[\w .+-]{{0,59}}")
"""What a folder beside these files may be called; 60 characters are at most 240 bytes."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Arrow has no place for half a surrogate pair, and a NUL is in no text that a person wrote."""


class StoreConfig(Config):
    """What a store is made of."""

    path: Path
    sources: tuple[AnySource, ...] = Field(min_length=1)
    decontaminate: tuple[AnySource, ...] = ()
    """Evaluation data, read like sources: items that overlap with it in any language are removed."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of rows that may be rejected before the run fails."""
    shard_items: int = Field(50_000, gt=0)
    """Items of one file."""
    seed: int = 0


class Rejection(NamedTuple):
    where: str
    reason: str
    item_id: str = ""
    language: str = ""

    @property
    def subject(self) -> str:
        return f" (item {self.item_id!r}, language {self.language!r})" if self.language else ""


@dataclass(slots=True)
class Read:
    """What the sources held."""

    datasets: defaultdict[str, dict[str, Item]] = field(default_factory=lambda: defaultdict(dict))
    """Dataset → item id → item."""
    origins: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Dataset → name of a source → its licence."""
    rejections: list[Rejection] = field(default_factory=list)
    num_rows: int = 0


class Removal(NamedTuple):
    """An item that overlaps with the evaluation data, and the text that showed it."""

    dataset: str
    item_id: str
    language: str
    reason: str
    text: str
    num_rows: int


class Prepared(NamedTuple):
    """What became of the rows: `read = kept + rejected + removed`, always."""

    manifest: Manifest
    num_read: int
    num_kept: int
    rejected: Counter[str]
    """Reason → rows."""
    removed: Counter[str]
    """Dataset → rows of items that overlap with the evaluation data."""
    was_there: bool
    """The same store stood there already; nothing was read."""


def prepare(config: StoreConfig) -> Prepared:
    """Make the store that `config` describes.

    Raises:
        SourceError: a source is missing or malformed, or more than `max_rejected` of the rows are bad.
        StoreError: another store stands at `config.path`.
    """
    spec = _spec(config)
    if (config.path / MANIFEST).exists():
        manifest = read_manifest(config.path)
        if manifest.spec == spec:
            return Prepared(manifest, 0, 0, Counter(), Counter(), was_there=True)
        raise StoreError(
            f"{config.path}: holds a store made from other settings or sources; give another path, or remove it first"
        )
    if config.path.exists() and (not config.path.is_dir() or any(config.path.iterdir())):
        raise StoreError(f"{config.path}: is there and is no store, so it is left alone; give another path")

    read = _read(config.sources)
    _fail_if_too_many(read.rejections, read.num_rows, config)
    removals = _remove_overlap(read.datasets, config.decontaminate)
    if removals and not any(read.datasets.values()):
        raise SourceError(f"every item of {config.path} overlaps with the evaluation data, so nothing is left to store")

    partial = config.path.with_name(f".{config.path.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        infos = tuple(
            write_dataset(partial, name, items, read.origins[name], shard_items=config.shard_items, seed=config.seed)
            for name, items in sorted(read.datasets.items())
            if items
        )
        manifest = Manifest(datasets=infos, spec=spec)
        _write_lines(partial / REJECTED, read.rejections)
        _write_lines(partial / REMOVED, removals)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        partial.replace(config.path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    reasons = Counter(rejection.reason for rejection in read.rejections)
    removed: Counter[str] = Counter()
    for removal in removals:
        removed[removal.dataset] += removal.num_rows
    num_kept = read.num_rows - len(read.rejections) - removed.total()
    return Prepared(manifest, read.num_rows, num_kept, reasons, removed, was_there=False)


def _read(sources: Iterable[Source]) -> Read:
    """Read every source to its end; each row is added to an item or rejected."""
    read = Read()
    for source in sources:
        for row in source.rows():
            read.num_rows += 1
            if rejection := _place(row, source, read):
                read.rejections.append(rejection)
    return read


def _place(row: Row | BadRow, source: Source, read: Read) -> Rejection | None:
    if isinstance(row, BadRow):
        return Rejection(row.where, row.reason)
    name = row.dataset or source.name
    if not _DATASET_NAME.fullmatch(name):
        return _rejection(row, "dataset's name may hold only letters, digits, spaces and ._+-, at most 60")
    read.origins[name][source.name] = source.licence
    return _add(row, read.datasets[name])


def _add(row: Row, items: dict[str, Item]) -> Rejection | None:
    """Put a row with its item, or say why not."""
    try:
        language = normalise(row.language)
    except ValueError:
        return _rejection(row, "language is no BCP-47 tag")
    if not row.item_id.strip():
        return _rejection(row, "item id is empty")
    for part in ("item_id", "passage_id", "question", "passage"):
        if match := _UNSTORABLE.search(getattr(row, part)):
            what = "a NUL character" if match[0] == "\0" else "half a surrogate pair"
            return _rejection(row, f"{part.replace('_', ' ')} holds {what}")
    for side in ("question", "passage"):
        if not getattr(row, side).strip():
            return _rejection(row, f"{side} is empty")
    item = items.setdefault(row.item_id, Item())
    if language in item.texts:
        return _rejection(row, "item has this language already")
    item.passage_id = item.passage_id or row.passage_id
    item.texts[language] = row.question, row.passage
    return None


def _rejection(row: Row, reason: str) -> Rejection:
    return Rejection(row.where, reason, row.item_id[:200], row.language[:200])


def _fail_if_too_many(rejections: list[Rejection], num_read: int, config: StoreConfig) -> None:
    if num_read == 0:
        raise SourceError(
            f"the sources of {config.path} hold no rows at all: {', '.join(s.name for s in config.sources)}"
        )
    if len(rejections) > config.max_rejected * num_read:
        beside = config.path.with_name(config.path.name + ".rejected.jsonl")
        beside.parent.mkdir(parents=True, exist_ok=True)
        _write_lines(beside, rejections)
        first = rejections[0]
        raise SourceError(
            f"{len(rejections)} of {num_read} rows are bad, more than max_rejected={config.max_rejected:g} allows; "
            f"no store was made. First: {first.where}: {first.reason}{first.subject}. All are in {beside}"
        )


def _remove_overlap(datasets: dict[str, dict[str, Item]], sources: Iterable[Source]) -> list[Removal]:
    """Take out every item that has a text of the evaluation data in any of its languages."""
    if not sources:
        return []
    rows = (row for source in sources for row in source.rows() if isinstance(row, Row))
    overlap = Overlap(text for row in rows for text in (row.question, row.passage))
    removals = []
    for name, items in datasets.items():
        found = [removal for item_id, item in items.items() if (removal := _removal(name, item_id, item, overlap))]
        for removal in found:
            del items[removal.item_id]
        removals += found
    return removals


def _removal(dataset: str, item_id: str, item: Item, overlap: Overlap) -> Removal | None:
    for language, texts in item.texts.items():
        for text in texts:
            if reason := overlap.found_in(text):
                return Removal(dataset, item_id, language, reason, text[:500], len(item.texts))
    return None


def _write_lines(path: Path, records: Iterable[Rejection | Removal]) -> None:
    # Half a surrogate pair has no UTF-8; written as an escape it is what JSON asks for.
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for record in records:
            file.write(json.dumps(record._asdict(), ensure_ascii=False) + "\n")


def _spec(config: StoreConfig) -> str:
    """Fingerprint of the settings and of the files that they name, by size and time of change."""
    sources = (*config.sources, *config.decontaminate)
    files = [file for source in sources for path in source.locations() for file in fingerprint(path)]
    text = json.dumps([config.model_dump(mode="json", exclude={"path"}), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
