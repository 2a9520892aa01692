"""Identity: which items ask the same question, which have the same passage, and which passages answer a question.

Two items have the same passage if they share a passage id within their dataset, or the text of a passage in any
language; the same holds for questions. Both relations are transitive: the classes are connected components. A passage
is right for a question if any item of the question's class has it. Everything that contrasts a question with passages
(the loss, its terms, mined negatives, the dev figure) reads what is written here, so that no right passage is ever
taken for a wrong one.

    GroupBucket ─keys of ids and texts─▶ FindEqualTexts ─pairs of items─▶ FindRelevantPassages ─▶ AssembleBucket

`FindRelevantPassages` is one task. It holds about 100 bytes for each item that shares a question or a passage with
another item; items that share nothing never reach it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hbt_ray.data.prepare.read import bucket_of
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.storage.folder import Folder

MAX_RIGHT = 1_000
"""Right passages that an item lists beside its own. A dataset of labels may have millions for one question, and lists
of that length, one an item, would not fit anywhere; what is beyond counts as a negative, and `prepare` warns of it."""

IDENTITY_SCHEMA = pa.schema([("key", pa.uint64()), ("is_passage", pa.bool_()), ("hash", pa.uint64())])
"""What identifies a question or passage; `hash` is that of the item."""
_PAIRS = pa.schema([("is_passage", pa.bool_()), ("first", pa.uint64()), ("other", pa.uint64())])
_ITEMS = pa.schema([("hash", pa.uint64()), ("passage_key", pa.int64()), ("right_keys", pa.list_(pa.int64()))])
_FILE = "items.arrow"
_ITEMS_AT_ONCE = 4_096
"""Lists of so many items are made at a time: 33 MB where all are as long as they may be."""

Hashes = NDArray[np.uint64]


def identity_keys(dataset: str, side: str, given_id: str, text: str) -> Iterator[int]:
    """What identifies one question or passage.

    Args:
        side: `question` or `passage`.
        given_id: empty if the source has none.
        text: normalised.
    """
    # An id is one of its dataset. A text is the same text in any dataset, and whatever language a source says it is in.
    yield _hash(side, "text", text)
    if given_id:
        yield _hash(side, "id", dataset, given_id)


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class FindEqualTexts:
    """The task of comparing one share of keys: leaves pairs of items with equal keys."""

    folder: Folder
    keys: Folder
    """Where the buckets left their keys."""
    share: int
    num_buckets: int

    def __call__(self) -> TaskResult:
        names = [f"{bucket:05d}.identity.arrow" for bucket in range(self.num_buckets)]
        table = pa.Table.from_batches([self.keys.open_arrow(name).get_batch(self.share) for name in names])
        key, is_passage, item = (table[name].to_numpy() for name in IDENTITY_SCHEMA.names)
        order = np.lexsort((item, key))
        key, is_passage, item = key[order], is_passage[order], item[order]
        new_key, new_item = (np.append(True, column[1:] != column[:-1])[: len(key)] for column in (key, item))
        starts = np.flatnonzero(new_key)
        first = np.repeat(item[starts], np.diff(np.append(starts, len(key))))
        # Each item of a key with the first one of that key, once: a star joins them as well as all pairs would.
        pairs = new_item & ~new_key
        with self.folder.create_arrow(f"{self.share:05d}.arrow", _PAIRS) as sink:
            sink.write(pa.table([is_passage[pairs], first[pairs], item[pairs]], schema=_PAIRS))
        return {}


@dataclass(frozen=True, slots=True)
class FindRelevantPassages:
    """The task of joining pairs to classes: leaves, by bucket, the items that share a question or passage."""

    folder: Folder
    equal: Folder
    """Where the shares left their pairs."""
    num_shares: int
    num_buckets: int

    def __call__(self) -> TaskResult:
        """The number of questions with more right passages than an item lists."""
        tables = [self.equal.open_arrow(f"{share:05d}.arrow").read_all() for share in range(self.num_shares)]
        is_passage, first, other = (pa.concat_tables(tables)[name].to_numpy() for name in _PAIRS.names)
        questions, passages = (_classes(first[side], other[side]) for side in (~is_passage, is_passage))
        rights = _rights(questions, passages)
        items = np.union1d(questions.items, passages.items)
        ends = np.searchsorted(bucket_of(items, self.num_buckets), np.arange(self.num_buckets), side="right")
        with self.folder.create_arrow(_FILE, _ITEMS) as sink:
            for some in np.split(items, ends[:-1]):
                sink.write(_records(some, questions, passages, rights))
        return {"crowded": int((np.diff(rights.starts) > MAX_RIGHT + 1).sum())}


class RelevantPassages:
    """What `FindRelevantPassages` found for the items of one bucket."""

    def __init__(self, joined: Folder, bucket: int) -> None:
        batch = joined.open_arrow(_FILE).get_batch(bucket)
        self._hashes = batch["hash"].to_numpy()
        self._batch = batch

    def columns(self, hashes: Hashes) -> dict[str, pa.Array]:
        """`passage_key` and `right_keys` (the keys of other right passages) of items, by their hashes."""
        at, known = _lookup(self._hashes, hashes)
        keys = hashes.view(np.int64).copy()
        keys[known] = self._batch["passage_key"].to_numpy()[at[known]]
        others = self._batch["right_keys"].take(pa.array(at, mask=~known))
        return {"passage_key": pa.array(keys), "right_keys": others.fill_null(pa.scalar([], others.type))}


class _Classes(NamedTuple):
    """The items that share something with another item, and the class of each."""

    items: Hashes
    """Sorted."""
    labels: Hashes
    """The smallest hash of an item of the class, [items]."""

    def of(self, items: Hashes) -> Hashes:
        """The label of any items; that of an item that shares nothing is its own hash."""
        at, known = _lookup(self.items, items)
        labels = items.copy()
        labels[known] = self.labels[at[known]]
        return labels


class _Rights(NamedTuple):
    """The passages of each class of questions, end to end."""

    questions: Hashes
    """Labels, sorted."""
    starts: NDArray[np.int64]
    """[questions + 1]"""
    passages: Hashes
    """Labels."""


def _classes(first: Hashes, other: Hashes) -> _Classes:
    items, numbers = np.unique(np.concatenate([first, other]), return_inverse=True)
    ends = (numbers[: len(first)], numbers[len(first) :])
    graph = coo_array((np.ones(len(first), np.int32), ends), shape=(len(items), len(items)))
    _, components = connected_components(graph, directed=False)
    # Items are sorted, so the first of a component is the smallest, whatever order the components come in.
    smallest = np.unique(components, return_index=True)[1]
    return _Classes(items, items[smallest][components])


def _rights(questions: _Classes, passages: _Classes) -> _Rights:
    pairs = np.unique(np.column_stack([questions.labels, passages.of(questions.items)]), axis=0)
    labels, starts = np.unique(pairs[:, 0], return_index=True)
    return _Rights(labels, np.append(starts, len(pairs)), pairs[:, 1])


def _records(items: Hashes, questions: _Classes, passages: _Classes, rights: _Rights) -> pa.RecordBatch:
    """For every item the key of its passage, and the keys of the other passages that answer its question."""
    own, asked = passages.of(items), questions.of(items)
    parts = [
        _others(own[start : start + _ITEMS_AT_ONCE], asked[start : start + _ITEMS_AT_ONCE], rights)
        for start in range(0, max(1, len(items)), _ITEMS_AT_ONCE)
    ]
    counts, others = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.array(others.view(np.int64)))
    return pa.record_batch([pa.array(items), pa.array(own.view(np.int64)), lists], schema=_ITEMS)


def _others(own: Hashes, asked: Hashes, rights: _Rights) -> tuple[NDArray[np.int64], Hashes]:
    """How many other passages each item lists, and these end to end.

    Args:
        own: labels of the items' passages.
        asked: labels of their questions.
    """
    at, known = _lookup(rights.questions, asked)
    counts = np.zeros(len(own), np.int64)
    counts[known] = np.minimum(np.diff(rights.starts)[at[known]], MAX_RIGHT + 1)
    row = np.repeat(np.arange(len(own)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    passages = rights.passages[rights.starts[at[row]] + within]
    # The cut above is by the order of labels, which may leave out the item's own; then one is too many.
    listed = (passages != own[row]) & ((within < MAX_RIGHT) | np.isin(row, row[passages == own[row]]))
    return np.bincount(row[listed], minlength=len(own)), passages[listed]


def _lookup(ordered: Hashes, wanted: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of `wanted` stands in `ordered`, and whether it does."""
    if not len(ordered):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, ordered[at] == wanted
