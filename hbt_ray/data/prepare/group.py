"""Stages 2 and 3: group the rows of a bucket into items, decide which rows stay, and find duplicates.

A duplicate is a row whose question and passage another item has in the same language. Of rows with equal texts in one
language, the row of the item with the most languages stays; among equals, the first by dataset and hash. So a
translated item does not lose a language to a copy of that one version.

Hashes of the texts are compared in shares, which are independent ranges of the hash.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hbt_ray.data.prepare.decontaminate import Decontaminator
from hbt_ray.data.prepare.hash_buckets import (
    Bucket,
    bucket_of,
    normalise_text,
    read_bucket,
    rejection_record,
    removal_record,
    text_hash,
    write_buckets,
)
from hbt_ray.data.prepare.relevant_passages import write_identity_keys
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.storage import encode_json_lines
from hbt_ray.storage.location import Folder

_TEXT_KEYS = pa.schema(
    [("key", pa.uint64()), ("num_languages", pa.int32()), ("dataset", pa.string()), ("hash", pa.uint64()),
     ("bucket", pa.int32()), ("row", pa.int32())]
)  # fmt: skip
"""`key` is the hash of a row's texts, `num_languages` that of its item, and `hash` that of (dataset, item id)."""


def group_bucket(
    folder: Folder, bucket: Bucket, decontaminator: Decontaminator | None, num_shares: int, deduplicate: bool
) -> TaskResult:
    """Task: write the numbers of the rows of a bucket that stay, and the hashes of their texts and ids.

    A row is rejected if its item has its language already. An item is removed if a text of it overlaps with the
    evaluation data in any language.

    Args:
        num_shares: number of buckets of the files of hashes.
        deduplicate: whether `find_duplicates` follows, which needs hashes of the rows' texts.
    """
    table, name = bucket.table(), bucket.name
    # Numbers of the rows' items and languages within the table, [rows]. Ids with a NUL were rejected.
    item_names = pc.binary_join_element_wise(table["dataset"], table["item_id"], "\0")
    items = item_names.dictionary_encode().combine_chunks().indices.to_numpy().astype(np.int64)
    languages = table["language"].dictionary_encode().combine_chunks()
    # One number for each (item, language).
    pairs = items * max(1, len(languages.dictionary)) + languages.indices.to_numpy()
    stays = np.zeros(len(table), bool)
    stays[np.unique(pairs, return_index=True)[1]] = True  # The first row of each (item, language).
    repeated = table.filter(pa.array(~stays)).select(["where", "item_id", "language"]).to_pylist()
    rejections = [
        rejection_record(row["where"], "item has this language already", row["item_id"], row["language"])
        for row in repeated
    ]
    # Clears `stays` in place.
    removals = _remove_overlapping(decontaminator, table, items, stays) if decontaminator else []
    folder.write(f"{name}.rejected.jsonl", encode_json_lines(rejections))
    folder.write(f"{name}.removed.jsonl", encode_json_lines(removals))
    rows = np.flatnonzero(stays)
    with folder.create_arrow(f"{name}.arrow", pa.schema([("row", pa.int64())])) as writer:
        writer.write(pa.table({"row": rows}))
    table = table.take(pa.array(rows))
    write_identity_keys(folder, bucket, table, num_shares)
    if deduplicate:
        columns = (table[column].to_pylist() for column in ("language", "question", "passage"))
        keys = np.fromiter((text_key(*texts) for texts in zip(*columns, strict=True)), np.uint64, len(rows))
        # The rows of an item that stay are its languages. Both arrays have one value per row that stays.
        num_languages, buckets = np.bincount(items[rows])[items[rows]], np.full(len(rows), bucket.number)
        arrays = [keys, num_languages, table["dataset"], table["hash"], buckets, rows]
        key_table = pa.table(arrays, schema=_TEXT_KEYS)
        write_buckets(folder, f"{name}.keys.arrow", key_table, bucket_of(keys, num_shares), num_shares)
    num_overlapping: Counter[str] = Counter()
    for record in removals:
        num_overlapping[record["dataset"]] += record["num_rows"]
    return {
        "rejected": Counter(record["reason"] for record in rejections),
        "first_rejected": rejections[0] if rejections else None,
        "overlapping": num_overlapping,
    }


def _remove_overlapping(
    decontaminator: Decontaminator, table: pa.Table, items: NDArray[np.int64], stays: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Clear `stays` for all rows of items that overlap with the evaluation data. Returns one record per item."""
    removals: dict[int, dict[str, Any]] = {}  # Item → record
    rows = np.flatnonzero(stays)
    texts = zip(*(table[side].take(pa.array(rows)).to_pylist() for side in ("question", "passage")), strict=True)
    for row, pair in zip(rows.tolist(), texts, strict=True):
        item = int(items[row])
        if item not in removals and (overlap := decontaminator.first_overlap(pair)):
            reason, text = overlap
            num_rows = int((items[rows] == item).sum())
            removals[item] = removal_record(table, row, reason, text, num_rows=num_rows)
    stays &= ~np.isin(items, list(removals))
    return list(removals.values())


def text_key(language: str, question: str, passage: str) -> int:
    """Hash of a row's language and texts; equal for rows of one language with equal normalised texts."""
    return text_hash(language, normalise_text(question), normalise_text(passage))


def find_duplicates(folder: Folder, keys: Folder, share: int, num_buckets: int) -> TaskResult:
    """Task: compare one share of the text hashes in `keys`, the folder of `group_bucket`; write duplicates by bucket.

    Returns:
        Dataset → number of duplicates.
    """
    files = [(keys, f"{bucket:05d}.keys.arrow") for bucket in range(num_buckets)]
    table = read_bucket(files, share)
    dataset = table["dataset"].dictionary_encode().combine_chunks()
    # Position of each dataset in alphabetical order.
    ranks = np.argsort(np.argsort(np.array(dataset.dictionary.to_pylist(), dtype=object)))
    key, num_languages, hashes, bucket = (table[name].to_numpy() for name in ("key", "num_languages", "hash", "bucket"))
    dataset_rank = ranks[dataset.indices.to_numpy()] if len(table) else np.empty(0, np.int64)
    # The last key of `lexsort` counts most: text, then most languages, dataset, hash.
    order = np.lexsort((hashes, dataset_rank, -num_languages, key))
    # All rows of a key but the first one.
    duplicates = order[1:][key[order][1:] == key[order][:-1]]
    removed = table.take(pa.array(duplicates))
    write_buckets(folder, f"{share:05d}.arrow", removed.select(["row"]), bucket[duplicates], num_buckets)
    return {"duplicates": Counter(removed["dataset"].to_pylist())}


def read_duplicates(folder: Folder, bucket: int, num_shares: int) -> NDArray[np.int64]:
    """Sorted row numbers of a bucket's duplicates, which `find_duplicates` wrote."""
    shares = ((folder, f"{share:05d}.arrow") for share in range(num_shares))
    return np.sort(read_bucket(shares, bucket)["row"].to_numpy()).astype(np.int64)
