"""Group: the rows of a bucket meet as items, and each is told whether it may stay."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hbt_ray.data.prepare.decontaminate import Decontaminator
from hbt_ray.data.prepare.read import bucket_of, deal, rejection
from hbt_ray.data.prepare.relevant_passages import IDENTITY_SCHEMA, identity_keys
from hbt_ray.data.prepare.task_runner import TaskResult, json_lines
from hbt_ray.storage.folder import Folder

KEYS = pa.schema(
    [("key", pa.uint64()), ("breadth", pa.int32()), ("dataset", pa.string()), ("hash", pa.uint64()),
     ("bucket", pa.int32()), ("row", pa.int32())]
)  # fmt: skip
"""What decides between rows with the same text: `key` is the hash of the text, `breadth` the item's languages."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The rows of one range of hashes, in the order in which the sources gave them."""

    files: tuple[tuple[Folder, str], ...]
    number: int

    def table(self) -> pa.Table:
        batches = [folder.open_arrow(name).get_batch(self.number) for folder, name in self.files]
        return pa.Table.from_batches([batch for batch in batches if len(batch)] or batches[:1])


@dataclass(frozen=True, slots=True)
class GroupBucket:
    """The task of judging the rows of a bucket: leaves the numbers of those that stay, and hashes of what they say."""

    folder: Folder
    bucket: Bucket
    overlap: Decontaminator | None
    num_shares: int
    """Files of hashes are cut into so many shares."""
    deduplicate: bool
    """Whether the hashes that tell duplicates are needed."""

    def __call__(self) -> TaskResult:
        table = self.bucket.table()
        items, languages = item_codes(table), table["language"].dictionary_encode().combine_chunks()
        stays = _first_of_each(items * max(1, len(languages.dictionary)) + languages.indices.to_numpy())
        repeated = table.filter(pa.array(~stays)).select(["where", "item_id", "language"]).to_pylist()
        rejections = [
            rejection(row["where"], "item has this language already", row["item_id"], row["language"])
            for row in repeated
        ]
        removals = self._overlapping(table, items, stays) if self.overlap else []
        name = f"{self.bucket.number:05d}"
        self.folder.write(f"{name}.rejected.jsonl", json_lines(rejections))
        self.folder.write(f"{name}.removed.jsonl", json_lines(removals))
        rows = np.flatnonzero(stays)
        with self.folder.create_arrow(f"{name}.arrow", pa.schema([("row", pa.int64())])) as sink:
            sink.write(pa.table({"row": rows}))
        chosen = table.take(pa.array(rows))
        self._write_identity(chosen)
        if self.deduplicate:
            self._write_keys(chosen, rows, np.bincount(items[rows], minlength=len(table))[items[rows]])
        counts: Counter[str] = Counter()
        for removal in removals:
            counts[removal["dataset"]] += removal["num_rows"]
        return {
            "rejected": Counter(one["reason"] for one in rejections),
            "first_rejected": rejections[0] if rejections else None,
            "overlapping": counts,
        }

    def _overlapping(self, table: pa.Table, items: NDArray[np.int64], stays: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Take out every item that has a text of the evaluation data in any of its languages."""
        found: dict[int, dict[str, Any]] = {}
        rows = np.flatnonzero(stays)
        texts = zip(*(table[side].take(pa.array(rows)).to_pylist() for side in ("question", "passage")), strict=True)
        for row, pair in zip(rows.tolist(), texts, strict=True):
            item = int(items[row])
            if item not in found and self.overlap and (told := self.overlap.found_in_any(pair)):
                found[item] = removal(table, row, *told, num_rows=int((items[rows] == item).sum()))
        stays &= ~np.isin(items, list(found))
        return list(found.values())

    def _write_identity(self, chosen: pa.Table) -> None:
        """What identifies the questions and passages of the rows that stay."""
        datasets, hashes = chosen["dataset"].to_pylist(), chosen["hash"].to_pylist()
        found: list[tuple[int, bool, int]] = []
        for side in ("question", "passage"):
            given = (datasets, chosen[f"{side}_id"].to_pylist(), chosen[side].to_pylist(), hashes)
            for dataset, given_id, text, item in zip(*given, strict=True):
                keys = identity_keys(dataset, side, given_id, _normal(text))
                found += [(key, side == "passage", item) for key in keys]
        columns = list(zip(*found, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, IDENTITY_SCHEMA.types, strict=True)]
        table = pa.table(arrays, schema=IDENTITY_SCHEMA)
        shares = bucket_of(table["key"].to_numpy(), self.num_shares)
        with self.folder.create_arrow(f"{self.bucket.number:05d}.identity.arrow", IDENTITY_SCHEMA) as sink:
            for batch in deal(table, shares, self.num_shares):
                sink.write(batch)

    def _write_keys(self, chosen: pa.Table, rows: NDArray[np.int64], breadth: NDArray[np.int64]) -> None:
        columns = (chosen[name].to_pylist() for name in ("language", "question", "passage"))
        keys = np.fromiter((text_key(*texts) for texts in zip(*columns, strict=True)), np.uint64, len(rows))
        found = pa.table(
            [keys, breadth, chosen["dataset"], chosen["hash"], np.full(len(rows), self.bucket.number), rows],
            schema=KEYS,
        )
        with self.folder.create_arrow(f"{self.bucket.number:05d}.keys.arrow", KEYS) as sink:
            for batch in deal(found, bucket_of(keys, self.num_shares), self.num_shares):
                sink.write(batch)


def item_codes(table: pa.Table) -> NDArray[np.int64]:
    """For every row the number of its item within the table; no id holds a NUL."""
    names = pc.binary_join_element_wise(table["dataset"], table["item_id"], "\0")
    codes: NDArray[np.int64] = names.dictionary_encode().combine_chunks().indices.to_numpy().astype(np.int64)
    return codes


def removal(table: pa.Table, row: int, reason: str, text: str, *, num_rows: int) -> dict[str, Any]:
    """A line of `removed.jsonl`."""
    names = {name: table[name][row].as_py() for name in ("dataset", "item_id", "language")}
    return {**names, "reason": reason, "text": text[:500], "num_rows": num_rows}


def text_key(language: str, question: str, passage: str) -> int:
    """Equal for rows of one language whose texts are equal after NFKC, lower case, and white space made one."""
    text = "\0".join((language, _normal(question), _normal(passage)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _first_of_each(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
