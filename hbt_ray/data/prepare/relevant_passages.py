"""Stages 4 and 5: find items with the same question or passage, and the passages that answer each question.

Two items have the same passage if they share a passage id within their dataset, or the text of a passage in any
language; the same holds for questions. Both relations are transitive: their classes are connected components. A passage
is relevant ("right") for a question if any item of the question's class has it. Everything that contrasts questions
with passages (the loss and its terms, mined negatives, the validation measures) reads the keys written here, so that a
relevant passage never counts as a negative.

    group_bucket ─keys of ids and texts─▶ find_equal_texts ─pairs of items─▶ find_relevant_passages ─▶ assemble_bucket

Items are identified by the hash of (dataset, item id). The key of a class of passages is the smallest hash of an item
in it. `find_relevant_passages` is a single task. It needs about 100 bytes for each item that shares a question or a
passage with another item; items that share nothing do not reach it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hbt_ray.data.prepare.hash_buckets import (
    Bucket,
    Hashes,
    bucket_of,
    normalise_text,
    read_bucket,
    text_hash,
    write_buckets,
)
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.storage.location import Folder

MAX_RIGHT = 1_000
"""Maximum number of relevant passages that an item lists beside its own. In a dataset of labels one question may have
millions, too many to list in every item. Passages beyond this number count as negatives, and `prepare` warns."""

_IDENTITY_KEYS = pa.schema([("key", pa.uint64()), ("is_passage", pa.bool_()), ("hash", pa.uint64())])
"""`key` is the hash of an id or text of a question or passage, and `hash` that of the item."""
_PAIRS = pa.schema([("is_passage", pa.bool_()), ("first", pa.uint64()), ("other", pa.uint64())])
"""Hashes of two items with the same passage or question."""
_ITEMS = pa.schema([("hash", pa.uint64()), ("passage_key", pa.int64()), ("right_keys", pa.list_(pa.int64()))])
_FILE = "items.arrow"
_ITEMS_AT_ONCE = 4_096
"""Number of items whose lists are made at once: 33 MB if all lists have the maximum length."""


def write_identity_keys(folder: Folder, bucket: Bucket, table: pa.Table, num_shares: int) -> None:
    """Write the hashes of ids and texts of all questions and passages, for `find_equal_texts`.

    Args:
        table: rows of the bucket that stay.
    """
    datasets, hashes = table["dataset"].to_pylist(), table["hash"].to_pylist()
    rows: list[tuple[int, bool, int]] = []
    for side in ("question", "passage"):
        columns = (datasets, table[f"{side}_id"].to_pylist(), table[side].to_pylist(), hashes)
        for dataset, given_id, text, item_hash in zip(*columns, strict=True):
            # Texts are compared across all datasets and languages; ids, which may be empty, within a dataset.
            rows.append((text_hash(side, "text", normalise_text(text)), side == "passage", item_hash))
            if given_id:
                rows.append((text_hash(side, "id", dataset, given_id), side == "passage", item_hash))
    values = list(zip(*rows, strict=True)) or [(), (), ()]
    arrays = [pa.array(column, type_) for column, type_ in zip(values, _IDENTITY_KEYS.types, strict=True)]
    key_table = pa.table(arrays, schema=_IDENTITY_KEYS)
    shares = bucket_of(key_table["key"].to_numpy(), num_shares)
    write_buckets(folder, f"{bucket.name}.identity.arrow", key_table, shares, num_shares)


def find_equal_texts(folder: Folder, keys: Folder, share: int, num_buckets: int) -> TaskResult:
    """Task: compare one share of the identity keys and write pairs of items with equal keys.

    Args:
        keys: folder with the files of `write_identity_keys`.
    """
    files = [(keys, f"{bucket:05d}.identity.arrow") for bucket in range(num_buckets)]
    key, is_passage, item = (read_bucket(files, share)[name].to_numpy() for name in _IDENTITY_KEYS.names)
    order = np.lexsort((item, key))
    key, is_passage, item = key[order], is_passage[order], item[order]
    # True at the first row of each key, and at each change of the item, [rows].
    new_key, new_item = (np.append(True, column[1:] != column[:-1])[: len(key)] for column in (key, item))
    starts = np.flatnonzero(new_key)
    first = np.repeat(item[starts], np.diff(np.append(starts, len(key))))  # First item of the row's key, [rows].
    # Pair each item of a key with the first one only: a star has the same connected components as all pairs.
    pairs = new_item & ~new_key
    with folder.create_arrow(f"{share:05d}.arrow", _PAIRS) as writer:
        writer.write(pa.table([is_passage[pairs], first[pairs], item[pairs]], schema=_PAIRS))
    return {}


def find_relevant_passages(folder: Folder, pairs: Folder, num_shares: int, num_buckets: int) -> TaskResult:
    """Task: join the pairs to classes and write, by bucket, the items that share a question or passage.

    Args:
        pairs: folder with the files of `find_equal_texts`.

    Returns:
        A warning if questions have more relevant passages than an item lists, else an empty text.
    """
    tables = [pairs.open_arrow(f"{share:05d}.arrow").read_all() for share in range(num_shares)]
    is_passage, first, other = (pa.concat_tables(tables)[name].to_numpy() for name in _PAIRS.names)
    questions, passages = (_find_classes(first[side], other[side]) for side in (~is_passage, is_passage))
    relevant = _passages_by_question(questions, passages)
    items = np.union1d(questions.items, passages.items)
    ends = np.searchsorted(bucket_of(items, num_buckets), np.arange(num_buckets), side="right")
    with folder.create_arrow(_FILE, _ITEMS) as writer:
        # `items` is sorted, so each bucket is a slice of it.
        for bucket_items in np.split(items, ends[:-1]):
            writer.write(_item_records(bucket_items, questions, passages, relevant))
    # + 1: the list of an item leaves out its own passage.
    num_truncated = int((np.diff(relevant.offsets) > MAX_RIGHT + 1).sum())
    warning = (
        f"{num_truncated:,} questions have more than {MAX_RIGHT + 1:,} right passages; in training, mining and "
        "validation the passages beyond that number count as wrong ones"
    )
    return {"warning": warning if num_truncated else ""}


class RelevantPassages:
    """Reads the result of `find_relevant_passages` for the items of one bucket."""

    def __init__(self, folder: Folder, bucket: int) -> None:
        self._batch = folder.open_arrow(_FILE).get_batch(bucket)
        self._hashes = self._batch["hash"].to_numpy()

    def columns(self, hashes: Hashes) -> dict[str, pa.Array]:
        """`passage_key` and `right_keys` (keys of other relevant passages) of the items with these hashes."""
        position, is_known = _find(self._hashes, hashes)
        # The key of a passage that no other item has is the hash of its own item.
        passage_keys = hashes.view(np.int64).copy()
        passage_keys[is_known] = self._batch["passage_key"].to_numpy()[position[is_known]]
        # A masked position gives null, which becomes an empty list.
        right_keys = self._batch["right_keys"].take(pa.array(position, mask=~is_known))
        return {
            "passage_key": pa.array(passage_keys),
            "right_keys": right_keys.fill_null(pa.scalar([], right_keys.type)),
        }


class _Classes(NamedTuple):
    """Items that share a question (or a passage) with another item, and the class of each."""

    items: Hashes
    """Sorted hashes, [items]."""
    labels: Hashes
    """Smallest hash of an item of the class, [items]."""

    def of(self, items: Hashes) -> Hashes:
        """The labels of items; an item that shares nothing has its own hash as label."""
        position, is_known = _find(self.items, items)
        labels = items.copy()
        labels[is_known] = self.labels[position[is_known]]
        return labels


class _PassagesByQuestion(NamedTuple):
    """Relevant passages of each class of questions, in compressed sparse row layout."""

    questions: Hashes
    """Sorted labels, [questions]."""
    offsets: NDArray[np.int64]
    """Range in `passages` of each question, [questions + 1]."""
    passages: Hashes
    """Labels, sorted within each question."""


def _find_classes(first: Hashes, other: Hashes) -> _Classes:
    """Connected components of a graph with an edge from each `first` to its `other`."""
    items, numbers = np.unique(np.concatenate([first, other]), return_inverse=True)
    edges = (numbers[: len(first)], numbers[len(first) :])
    # The values do not matter, only the positions of the edges.
    graph = coo_array((np.ones(len(first), np.int32), edges), shape=(len(items), len(items)))
    _, components = connected_components(graph, directed=False)
    # Items are sorted, so the first of a component is the smallest, whatever the order of the components.
    smallest = np.unique(components, return_index=True)[1]
    return _Classes(items, items[smallest][components])


def _passages_by_question(questions: _Classes, passages: _Classes) -> _PassagesByQuestion:
    # Distinct (question, passage), sorted, [pairs, 2].
    pairs = np.unique(np.column_stack([questions.labels, passages.of(questions.items)]), axis=0)
    labels, starts = np.unique(pairs[:, 0], return_index=True)
    return _PassagesByQuestion(labels, np.append(starts, len(pairs)), pairs[:, 1])


def _item_records(
    items: Hashes, questions: _Classes, passages: _Classes, relevant: _PassagesByQuestion
) -> pa.RecordBatch:
    """The passage key of every item, and the keys of the other passages that answer its question."""
    item_passages, item_questions = passages.of(items), questions.of(items)
    slices = [slice(start, start + _ITEMS_AT_ONCE) for start in range(0, max(1, len(items)), _ITEMS_AT_ONCE)]
    parts = [_other_passages(item_passages[part], item_questions[part], relevant) for part in slices]
    counts, others = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.array(others.view(np.int64)))
    return pa.record_batch([pa.array(items), pa.array(item_passages.view(np.int64)), lists], schema=_ITEMS)


def _other_passages(
    item_passages: Hashes, item_questions: Hashes, relevant: _PassagesByQuestion
) -> tuple[NDArray[np.int64], Hashes]:
    """The other relevant passages of each item: their number, [items], and their labels, end to end.

    Args:
        item_passages: label of each item's own passage, [items].
        item_questions: label of each item's question, [items].
    """
    position, is_known = _find(relevant.questions, item_questions)
    counts = np.zeros(len(item_passages), np.int64)
    # One more than an item lists, because one of them may be its own passage.
    counts[is_known] = np.minimum(np.diff(relevant.offsets)[position[is_known]], MAX_RIGHT + 1)
    row = np.repeat(np.arange(len(item_passages)), counts)  # Item of each label, [labels].
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)  # Number within the row's list.
    passages = relevant.passages[relevant.offsets[position[row]] + rank]
    is_own = passages == item_passages[row]
    # The first MAX_RIGHT + 1 labels may not contain the item's own passage; then the last one is left out.
    listed = ~is_own & ((rank < MAX_RIGHT) | np.isin(row, row[is_own]))
    return np.bincount(row[listed], minlength=len(item_passages)), passages[listed]


def _find(ordered: Hashes, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The position of each hash in `ordered`, and whether it occurs there. A missing hash has an arbitrary position."""
    if not len(ordered):
        return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
    position = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return position, ordered[position] == hashes
