"""Duplicates: rows that say what another item says already, found among the hashes of one share of all texts.

Of rows with equal question and passage in one language, that one stays whose item has most languages; among equals,
the first by dataset and hash. So a translated item is never broken up for the sake of a copy of one of its versions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hbt_ray.data.prepare.read import deal
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.storage.folder import Folder

LOSERS = pa.schema([("row", pa.int32())])


@dataclass(frozen=True, slots=True)
class FindDuplicates:
    """The task of comparing one share of hashes: leaves the rows that go, by bucket."""

    folder: Folder
    keys: Folder
    """Where the buckets left their hashes."""
    share: int
    num_buckets: int

    def __call__(self) -> TaskResult:
        names = [f"{bucket:05d}.keys.arrow" for bucket in range(self.num_buckets)]
        table = pa.Table.from_batches([self.keys.open_arrow(name).get_batch(self.share) for name in names])
        dataset = table["dataset"].dictionary_encode().combine_chunks()
        ranks = np.argsort(np.argsort(np.array(dataset.dictionary.to_pylist(), dtype=object)))
        key, breadth, hashes, bucket = (table[name].to_numpy() for name in ("key", "breadth", "hash", "bucket"))
        by_dataset = ranks[dataset.indices.to_numpy()] if len(table) else np.empty(0, np.int64)
        order = np.lexsort((hashes, by_dataset, -breadth, key))
        losers = order[1:][key[order][1:] == key[order][:-1]]
        gone = table.take(pa.array(losers))
        with self.folder.create_arrow(f"{self.share:05d}.arrow", LOSERS) as sink:
            for batch in deal(gone.select(["row"]), bucket[losers], self.num_buckets):
                sink.write(batch)
        return {"duplicates": Counter(gone["dataset"].to_pylist())}
