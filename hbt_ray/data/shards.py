"""Shards: the items of a dataset as Arrow files, sorted by their languages and shuffled among equals."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from hbt_ray.data.keyed import make_key, permute
from hbt_ray.data.manifest import DatasetInfo, Group, Shard


@dataclass(slots=True)
class Item:
    """One item in all its languages."""

    passage_id: str = ""
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Language → question, passage."""


def write_dataset(
    root: Path, name: str, items: dict[str, Item], origins: dict[str, str], *, shard_items: int, seed: int
) -> DatasetInfo:
    """Write one dataset's shards into the folder `name` of `root`.

    Args:
        items: by their ids.
        origins: name of a source → its licence.
        shard_items: items of one file.
        seed: of the shuffle.
    """
    by_languages: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item_id, item in items.items():
        by_languages[tuple(sorted(item.texts))].append(item_id)
    groups: list[Group] = []
    order: list[str] = []
    for languages in sorted(by_languages):
        ids = sorted(by_languages[languages])
        shuffled = permute(make_key(seed, name, languages), np.arange(len(ids)), len(ids))
        order.extend(ids[number] for number in shuffled.tolist())
        groups.append(Group(languages=languages, num_items=len(ids)))
    all_languages = sorted({language for languages in by_languages for language in languages})
    (root / name).mkdir(parents=True)
    shards = []
    for number, start in enumerate(range(0, len(order), shard_items)):
        ids = order[start : start + shard_items]
        file = f"{name}/{number:05d}.arrow"
        _write_shard(root / file, [(item_id, items[item_id]) for item_id in ids], all_languages)
        shards.append(Shard(file=file, num_items=len(ids), sha256=_sha256(root / file)))
    return DatasetInfo(
        name=name,
        groups=tuple(groups),
        shards=tuple(shards),
        sources=tuple(origins),
        licences=tuple(sorted({*origins.values()} - {""})),
    )


def _write_shard(path: Path, items: list[tuple[str, Item]], languages: list[str]) -> None:
    # Where the source names no passage, equal text in the item's first language means the same passage.
    passage_ids = [item.passage_id or item.texts[min(item.texts)][1] for _, item in items]
    columns: dict[str, pa.Array] = {
        "item_id": pa.array([item_id for item_id, _ in items], pa.string()),
        "passage_id": pa.array([item.passage_id for _, item in items], pa.string()),
        "passage_key": pa.array(np.array([make_key(i) for i in passage_ids], dtype=np.uint64).view(np.int64)),
    }
    for language in languages:
        texts = [item.texts.get(language, (None, None)) for _, item in items]
        columns[f"question.{language}"] = pa.array([question for question, _ in texts], pa.string())
        columns[f"passage.{language}"] = pa.array([passage for _, passage in texts], pa.string())
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
