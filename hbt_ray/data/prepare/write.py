"""Stages 6 and 7: assemble the rows of each bucket into items, and write the items of all buckets as shards.

Items are sorted by (set of languages, hash of the item). Within a set of languages the items of bucket 0 come before
those of bucket 1, and so on, because buckets are ranges of that hash. So the numbers of items determine the order of a
whole dataset, and every shard is a list of slices of sorted buckets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.index.manifest import LanguageGroup
from hbt_ray.data.prepare.group import read_duplicates
from hbt_ray.data.prepare.hash_buckets import Bucket, removal_record
from hbt_ray.data.prepare.relevant_passages import RelevantPassages
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.data.store.columns import PASSAGE_KEY, RIGHT_KEYS, SIDES
from hbt_ray.data.store.shard_checksums import write_shard
from hbt_ray.storage import encode_json_lines
from hbt_ray.storage.location import Folder

BATCH_ITEMS = 4096
"""Items of one record batch, the unit in which readers fetch a remote column."""

LanguageCounts = dict[tuple[str, ...], int]
"""Set of languages → number of items."""


def assemble_bucket(
    folder: Folder, bucket: Bucket, grouped: Folder, duplicates: Folder | None, relevant: Folder, num_shares: int
) -> TaskResult:
    """Task: write the items of a bucket, one file per dataset.

    Args:
        grouped: folder of `group_bucket`.
        duplicates: folder of `find_duplicates`; None if duplicates are kept.
        relevant: folder of `find_relevant_passages`.

    Returns:
        For each dataset: its sets of languages with numbers of items, whether it has answers, and the largest number of
        right passages of a question.
    """
    table, name = bucket.table(), bucket.name
    rows = grouped.open_arrow(f"{name}.arrow").read_all()["row"].to_numpy()
    copies = np.empty(0, np.int64)
    if duplicates is not None:
        copies = read_duplicates(duplicates, bucket.number, num_shares)
    removals = (
        removal_record(table, row, "another item has the same text", table["question"][row].as_py(), num_rows=1)
        for row in copies.tolist()
    )
    folder.write(f"{name}.removed.jsonl", encode_json_lines(removals))
    table = table.take(pa.array(np.setdiff1d(rows, copies)))
    datasets, passages = {}, RelevantPassages(relevant, bucket.number)
    for dataset in sorted(pc.unique(table["dataset"]).to_pylist()):
        dataset_rows = table.filter(pc.equal(table["dataset"], dataset)).combine_chunks()
        items, groups = _assemble(dataset_rows, passages)
        # Uncompressed, because `write_dataset_shard` takes slices of the memory-mapped file.
        with folder.create_arrow(f"{name}/{dataset}.arrow", items.schema, compression=None) as writer:
            writer.write(items)
        datasets[dataset] = {
            "groups": groups,
            "answers": any(column.startswith("answer.") for column in items.column_names),
            "max_right": 1 + pc.max(pc.list_value_length(items[RIGHT_KEYS])).as_py(),
        }
    return {"datasets": datasets}


def _assemble(rows: pa.Table, relevant: RelevantPassages) -> tuple[pa.Table, list[tuple[list[str], int]]]:
    """The sorted items of a dataset's rows, and the number of items of each set of languages."""
    ids, languages = (rows[name].dictionary_encode().combine_chunks() for name in ("item_id", "language"))
    item, language = ids.indices.to_numpy(), languages.indices.to_numpy()  # [rows] each
    names: list[str] = languages.dictionary.to_pylist()
    row_of = np.full((len(ids.dictionary), len(names)), -1, np.int64)  # [items, languages], -1: no such row
    row_of[item, language] = np.arange(len(rows))

    sets, group = np.unique(row_of >= 0, axis=0, return_inverse=True)  # [sets, languages], [items]
    # NumPy 2.0 returns the inverse as a column.
    group = group.reshape(-1)
    language_sets = [tuple(sorted(name for name, has in zip(names, row, strict=True) if has)) for row in sets.tolist()]
    # The manifest sorts sets of languages by name, `unique` sorts them by their bits.
    by_name = sorted(range(len(language_sets)), key=language_sets.__getitem__)
    # All rows of an item have the same hash; the first one is taken.
    first_row = np.unique(item, return_index=True)[1]
    hashes = rows["hash"].to_numpy()[first_row]
    # `argsort` of a permutation is its inverse: the rank of each set. The last key counts most.
    order = np.lexsort((hashes, np.argsort(by_name)[group]))
    counts = np.bincount(group, minlength=len(language_sets))

    row_of = row_of[order]
    passage_ids = [""] * len(order)  # The first id that any row of the item gives its passage.
    for number, passage_id in zip(item.tolist(), rows["passage_id"].to_pylist(), strict=True):
        passage_ids[number] = passage_ids[number] or passage_id
    columns = {
        "item_id": ids.dictionary.take(pa.array(order)),
        "passage_id": pa.array(passage_ids, pa.string()).take(pa.array(order)),
        **relevant.columns(hashes[order]),
    }
    has_answers = bool(pc.any(pc.not_equal(rows["answer"], "")).as_py())
    for number, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        # A masked index gives null: the item does not have the language.
        indices = pa.array(row_of[:, number], mask=row_of[:, number] < 0)
        for side in SIDES if has_answers else SIDES[:2]:
            columns[f"{side}.{name}"] = rows[side].combine_chunks().take(indices)
    return pa.table(columns), [(list(language_sets[number]), int(counts[number])) for number in by_name]


class Slice(NamedTuple):
    """Consecutive items of one bucket."""

    bucket: int
    start: int
    num_items: int


def write_dataset_shard(
    store: Folder, assembled: Folder, dataset: str, number: int, slices: Sequence[Slice], text_columns: Sequence[str]
) -> TaskResult:
    """Task: write one shard from slices of the buckets in `assembled`, the folder of `assemble_bucket`.

    Returns:
        File, number of items and checksums, for the manifest.
    """
    schema = pa.schema(
        [("item_id", pa.string()), ("passage_id", pa.string())]
        + [(PASSAGE_KEY, pa.int64()), (RIGHT_KEYS, pa.list_(pa.int64()))]
        + [(column, pa.string()) for column in text_columns]
    )
    file = f"{dataset}/{number:05d}.arrow"
    parts = []
    for part in slices:
        items = assembled.open_arrow(f"{part.bucket:05d}/{dataset}.arrow").read_all()
        items = items.slice(part.start, part.num_items)
        # Not every bucket has every language of the dataset.
        absent = pa.nulls(len(items), pa.string())
        columns = [items[name] if name in items.column_names else absent for name in schema.names]
        parts.append(pa.table(columns, schema=schema))
    table = pa.concat_tables(parts)
    # Rebuilt from Python values: slices and concatenations have equal values, but not always equal bytes.
    batches = [
        pa.RecordBatch.from_pydict(table.slice(start, BATCH_ITEMS).to_pydict(), schema=schema)
        for start in range(0, len(table), BATCH_ITEMS)
    ]
    with store.create(file) as stream:
        checksums = write_shard(stream, batches)
    return {"file": file, "num_items": len(table), "sha256": stream.hexdigest(), "checksums": checksums}


class DatasetLayout(NamedTuple):
    """Division of a dataset into groups, shards and columns."""

    name: str
    groups: tuple[LanguageGroup, ...]
    shards: tuple[tuple[Slice, ...], ...]
    text_columns: tuple[str, ...]
    """Names of the columns of texts, such as `question.de`."""
    max_right: int
    """Largest number of right passages of a question."""


def dataset_layouts(results: Sequence[TaskResult], shard_items: int) -> Iterator[DatasetLayout]:
    """The layout of every dataset, from the results of `assemble_bucket`, bucket by bucket."""
    for name in sorted({name for result in results for name in result["datasets"]}):
        empty = {"groups": [], "answers": False, "max_right": 1}
        parts = [result["datasets"].get(name, empty) for result in results]
        buckets = [{tuple(languages): count for languages, count in part["groups"]} for part in parts]
        groups = language_groups(buckets)
        sides = SIDES if any(part["answers"] for part in parts) else SIDES[:2]
        languages = sorted({language for group in groups for language in group.languages})
        columns = tuple(f"{side}.{language}" for language in languages for side in sides)
        shards = tuple(shard_slices(buckets, shard_items))
        yield DatasetLayout(name, groups, shards, columns, max(part["max_right"] for part in parts))


def language_groups(buckets: Sequence[LanguageCounts]) -> tuple[LanguageGroup, ...]:
    """The groups of a whole dataset, in the order of storage."""
    totals: Counter[tuple[str, ...]] = Counter()
    for counts in buckets:
        totals.update(counts)
    return tuple(LanguageGroup(languages=languages, num_items=totals[languages]) for languages in sorted(totals))


def shard_slices(buckets: Sequence[LanguageCounts], shard_items: int) -> Iterator[tuple[Slice, ...]]:
    """The slices of every shard, each of `shard_items` items except the last one."""
    # Room left in the current shard, its slices, and the next unused item of each bucket.
    num_free, slices, starts = shard_items, list[Slice](), [0] * len(buckets)
    # The items of every group in every bucket, in the order in which the dataset stores them.
    for group in language_groups(buckets):
        for number, counts in enumerate(buckets):
            num_left = counts.get(group.languages, 0)
            while num_left:
                num_taken = min(num_free, num_left)
                slices.append(Slice(number, starts[number], num_taken))
                starts[number] += num_taken
                num_left -= num_taken
                num_free -= num_taken
                if not num_free:
                    yield tuple(slices)
                    num_free, slices = shard_items, []
    if slices:
        yield tuple(slices)
