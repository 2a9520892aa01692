"""Pack: what stays of a bucket as items, a row an item, sorted by languages and hash."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hbt_ray.data.prepare.group import Bucket, removal
from hbt_ray.data.prepare.relevant_passages import RelevantPassages
from hbt_ray.data.prepare.task_runner import TaskResult, json_lines
from hbt_ray.data.store.columns import SIDES
from hbt_ray.storage.folder import Folder


@dataclass(frozen=True, slots=True)
class AssembleBucket:
    """The task of packing a bucket: leaves a file of items for each of its datasets."""

    folder: Folder
    bucket: Bucket
    grouped: Folder
    duplicates: Folder | None
    """None if nothing was compared."""
    joined: Folder
    """Where `FindRelevantPassages` left what it found."""
    num_shares: int

    def __call__(self) -> TaskResult:
        """For every dataset its groups of languages with their numbers of items, whether it has answers, and how many
        right passages a question has at most."""
        table, name = self.bucket.table(), f"{self.bucket.number:05d}"
        kept = self.grouped.open_arrow(f"{name}.arrow").read_all()["row"].to_numpy()
        copies = self._copies()
        self.folder.write(
            f"{name}.removed.jsonl",
            json_lines(
                removal(table, row, "another item has the same text", table["question"][row].as_py(), num_rows=1)
                for row in copies.tolist()
            ),
        )
        table = table.take(pa.array(np.setdiff1d(kept, copies)))
        datasets, identity = {}, RelevantPassages(self.joined, self.bucket.number)
        for dataset in sorted(pc.unique(table["dataset"]).to_pylist()):
            rows = table.filter(pc.equal(table["dataset"], dataset)).combine_chunks()
            items, groups = _items(rows, identity)
            # Uncompressed: a shard takes its slices out of the mapped file.
            with self.folder.create_arrow(f"{name}/{dataset}.arrow", items.schema, compression=None) as sink:
                sink.write(items)
            datasets[dataset] = {
                "groups": groups,
                "answers": "answer" in {n.partition(".")[0] for n in items.column_names},
                "max_right": 1 + pc.max(pc.list_value_length(items["right_keys"])).as_py(),
            }
        return {"datasets": datasets}

    def _copies(self) -> NDArray[np.int64]:
        if self.duplicates is None:
            return np.empty(0, np.int64)
        shares = (self.duplicates.open_arrow(f"{share:05d}.arrow") for share in range(self.num_shares))
        found = [share.get_batch(self.bucket.number)["row"].to_numpy() for share in shares]
        return np.sort(np.concatenate(found)).astype(np.int64)


def _items(rows: pa.Table, identity: RelevantPassages) -> tuple[pa.Table, list[tuple[list[str], int]]]:
    """The items of a dataset's rows, and how many there are of each set of languages."""
    ids, languages = (rows[name].dictionary_encode().combine_chunks() for name in ("item_id", "language"))
    item, language = ids.indices.to_numpy(), languages.indices.to_numpy()
    names: list[str] = languages.dictionary.to_pylist()
    places = np.full((len(ids.dictionary), len(names)), -1, np.int64)
    places[item, language] = np.arange(len(rows))

    sets, group = np.unique(places >= 0, axis=0, return_inverse=True)
    tuples = [tuple(sorted(name for name, has in zip(names, row, strict=True) if has)) for row in sets.tolist()]
    by_name = sorted(range(len(tuples)), key=tuples.__getitem__)
    first_row = np.unique(item, return_index=True)[1]
    hashes = rows["hash"].to_numpy()[first_row]
    order = np.lexsort((hashes, np.argsort(by_name)[group.reshape(-1)]))
    counts = np.bincount(group.reshape(-1), minlength=len(tuples))

    places = places[order]
    columns = {"item_id": ids.dictionary.take(pa.array(order)), "passage_id": _passage_ids(rows, item, order)}
    columns |= identity.columns(hashes[order])
    has_answers = bool(pc.any(pc.not_equal(rows["answer"], "")).as_py())
    for column, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        at = pa.array(places[:, column], mask=places[:, column] < 0)
        for side in SIDES if has_answers else SIDES[:2]:
            columns[f"{side}.{name}"] = rows[side].combine_chunks().take(at)
    return pa.table(columns), [(list(tuples[number]), int(counts[number])) for number in by_name]


def _passage_ids(rows: pa.Table, item: NDArray[np.int32], order: NDArray[np.int64]) -> pa.Array:
    """The first id that any row of an item gives its passage."""
    ids = [""] * len(order)
    for number, passage_id in zip(item.tolist(), rows["passage_id"].to_pylist(), strict=True):
        ids[number] = ids[number] or passage_id
    return pa.array([ids[number] for number in order.tolist()], pa.string())
