"""Stage 2: group the rows of a bucket into items and decide which rows stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hbt_ray.data.prepare.decontaminate import Decontaminator
from hbt_ray.data.prepare.deduplicate import write_text_keys
from hbt_ray.data.prepare.hash_buckets import Bucket, rejection_record, removal_record
from hbt_ray.data.prepare.relevant_passages import write_identity_keys
from hbt_ray.data.prepare.task_runner import TaskResult, encode_json_lines
from hbt_ray.storage.folder import Folder


def group_bucket(
    folder: Folder, bucket: Bucket, decontaminator: Decontaminator | None, num_shares: int, deduplicate: bool
) -> TaskResult:
    """Task: write the numbers of a bucket's rows that stay, and the hashes of their texts and ids.

    A row is rejected if its item has its language already. An item is removed if a text of it overlaps with the
    evaluation data in any language.

    Args:
        num_shares: number of buckets of the files of hashes.
        deduplicate: whether `find_duplicates` follows, which needs hashes of the rows' texts.
    """
    table, name = bucket.table(), bucket.name
    items, languages = _item_codes(table), table["language"].dictionary_encode().combine_chunks()
    stays = _is_first(items * max(1, len(languages.dictionary)) + languages.indices.to_numpy())
    repeated = table.filter(pa.array(~stays)).select(["where", "item_id", "language"]).to_pylist()
    rejections = [
        rejection_record(row["where"], "item has this language already", row["item_id"], row["language"])
        for row in repeated
    ]
    removals = _remove_overlapping(decontaminator, table, items, stays) if decontaminator else []
    folder.write(f"{name}.rejected.jsonl", encode_json_lines(rejections))
    folder.write(f"{name}.removed.jsonl", encode_json_lines(removals))
    rows = np.flatnonzero(stays)
    with folder.create_arrow(f"{name}.arrow", pa.schema([("row", pa.int64())])) as writer:
        writer.write(pa.table({"row": rows}))
    table = table.take(pa.array(rows))
    write_identity_keys(folder, bucket, table, num_shares)
    if deduplicate:
        num_languages = np.bincount(items[rows])[items[rows]]
        write_text_keys(folder, bucket, table, rows, num_languages, num_shares)
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


def _item_codes(table: pa.Table) -> NDArray[np.int64]:
    """Number of each row's item within the table, [rows]."""
    names = pc.binary_join_element_wise(table["dataset"], table["item_id"], "\0")  # Ids with a NUL were rejected.
    codes: NDArray[np.int64] = names.dictionary_encode().combine_chunks().indices.to_numpy().astype(np.int64)
    return codes


def _is_first(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is the first one of its kind."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
