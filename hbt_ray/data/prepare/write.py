"""Write: shards, each cut from the sorted buckets.

In a group of languages the items of bucket 0 come before those of bucket 1, and so on: the buckets are ranges of the
hash by which items are sorted. So the order of a whole dataset follows from the counts, and a shard knows its slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from hbt_ray.data.index.manifest import LanguageGroup
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.data.store.columns import SIDES
from hbt_ray.data.store.shard_checksums import write_shard
from hbt_ray.storage.folder import Folder

BATCH_ITEMS = 4096
"""Items of one record batch: what a reader fetches of a remote column at once."""

Groups = dict[tuple[str, ...], int]
"""Set of languages → items."""


class Slice(NamedTuple):
    """Consecutive items of one bucket."""

    bucket: int
    start: int
    num_items: int


@dataclass(frozen=True, slots=True)
class WriteShard:
    """The task of writing one shard."""

    folder: Folder
    """Of the store."""
    packed: Folder
    dataset: str
    number: int
    slices: tuple[Slice, ...]
    columns: tuple[str, ...]
    """Of texts, such as `question.de`."""

    def __call__(self) -> TaskResult:
        schema = pa.schema(
            [("item_id", pa.string()), ("passage_id", pa.string()), ("passage_key", pa.int64())]
            + [("right_keys", pa.list_(pa.int64()))]
            + [(column, pa.string()) for column in self.columns]
        )
        file = f"{self.dataset}/{self.number:05d}.arrow"
        table = pa.concat_tables([self._items(one, schema) for one in self.slices])
        # Made anew: slices and what is joined of them are equal in value, but not in every byte.
        batches = [
            pa.RecordBatch.from_pydict(table.slice(start, BATCH_ITEMS).to_pydict(), schema=schema)
            for start in range(0, len(table), BATCH_ITEMS)
        ]
        with self.folder.create(file) as stream:
            checksums = write_shard(stream, batches)
        return {"file": file, "num_items": len(table), "sha256": stream.hexdigest(), "checksums": checksums}

    def _items(self, one: Slice, schema: pa.Schema) -> pa.Table:
        items = (
            self.packed.open_arrow(f"{one.bucket:05d}/{self.dataset}.arrow").read_all().slice(one.start, one.num_items)
        )
        absent = pa.nulls(len(items), pa.string())
        return pa.table([items[n] if n in items.column_names else absent for n in schema.names], schema=schema)


class Layout(NamedTuple):
    """How a dataset is stored."""

    name: str
    groups: tuple[LanguageGroup, ...]
    shards: tuple[WriteShard, ...]
    max_right: int
    """Right passages of a question at most."""


def layouts(store: Folder, packed: Folder, packs: Sequence[TaskResult], shard_items: int) -> Iterator[Layout]:
    """Of every dataset, from what `AssembleBucket` says of the buckets, in their order."""
    for name in sorted({name for pack in packs for name in pack["datasets"]}):
        found = [pack["datasets"].get(name, {"groups": [], "answers": False, "max_right": 1}) for pack in packs]
        buckets = [{tuple(languages): count for languages, count in one["groups"]} for one in found]
        groups = total(buckets)
        sides = SIDES if any(one["answers"] for one in found) else SIDES[:2]
        languages = sorted({language for group in groups for language in group.languages})
        columns = tuple(f"{side}.{language}" for language in languages for side in sides)
        cuts = enumerate(cut(buckets, shard_items))
        shards = tuple(WriteShard(store, packed, name, number, slices, columns) for number, slices in cuts)
        yield Layout(name, groups, shards, max(one["max_right"] for one in found))


def total(buckets: Sequence[Groups]) -> tuple[LanguageGroup, ...]:
    """The groups of a whole dataset, in the order in which they are stored."""
    sums: Groups = {}
    for groups in buckets:
        for languages, count in groups.items():
            sums[languages] = sums.get(languages, 0) + count
    return tuple(LanguageGroup(languages=languages, num_items=sums[languages]) for languages in sorted(sums))


def cut(buckets: Sequence[Groups], shard_items: int) -> Iterator[tuple[Slice, ...]]:
    """The slices of every shard, from the groups of every bucket in their order."""
    room, slices = shard_items, list[Slice]()
    for one in _in_order(buckets):
        while one.num_items:
            taken = min(room, one.num_items)
            slices.append(Slice(one.bucket, one.start, taken))
            one = Slice(one.bucket, one.start + taken, one.num_items - taken)
            room -= taken
            if not room:
                yield tuple(slices)
                room, slices = shard_items, []
    if slices:
        yield tuple(slices)


def _in_order(buckets: Sequence[Groups]) -> Iterator[Slice]:
    """The stretch of every group in every bucket, as the dataset stores them."""
    starts = [0] * len(buckets)
    for group in total(buckets):
        for number, groups in enumerate(buckets):
            if count := groups.get(group.languages, 0):
                yield Slice(number, starts[number], count)
                starts[number] += count
