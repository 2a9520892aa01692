"""Read: one part of a source, its rows checked and dealt into buckets.

A file of rows holds one record batch a bucket, so that reading a bucket touches only its own bytes in every file.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from hbt_ray.data.formats.files import explained
from hbt_ray.data.formats.source_row import BadRow, SourceRow, unstorable_reason
from hbt_ray.data.index.permutation import make_key
from hbt_ray.data.prepare.task_runner import TaskResult, json_lines
from hbt_ray.data.sources.source import SourcePart
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.storage.folder import Folder

_TEXTS = ("dataset", "item_id", "language", "question", "passage", "answer", "question_id", "passage_id", "where")
SCHEMA = pa.schema([*((name, pa.string()) for name in _TEXTS), ("hash", pa.uint64())])
"""Of the rows between the stages; `hash` is that of (dataset, item id), a random number for the shuffle."""

_MAX_TAGS = 10_000
"""Spellings that are remembered: a column that holds no languages has any number."""
_MAX_ROWS, _MAX_CHARACTERS = 100_000, 48 << 20
"""Of one file: what a task holds in memory."""
_DATASET_NAME = re.compile(r"(?!(?:manifest\.json|rejected\.jsonl|removed\.jsonl)$)\w[\w .+-]{0,59}")
"""What a folder beside these files may be called; 60 characters are at most 240 bytes."""


@dataclass(frozen=True, slots=True)
class ReadPart:
    """The task of reading one part of a source into `folder`."""

    folder: Folder
    name: str
    """Of the source; the dataset of rows that name none."""
    licence: str
    part: SourcePart
    languages: Mapping[str, str]
    """What the source calls a language → what the store calls it."""
    num_buckets: int
    seed: int

    def __call__(self) -> TaskResult:
        """Rows read and rejected, the files they are in, and the dataset names with this source's licence.

        Raises:
            SourceError: the source is missing or malformed.
        """
        rows = _Rows(self.folder, self.num_buckets)
        rejections: list[dict[str, str]] = []
        datasets: set[str] = set()
        tags = _Tags(self.languages)
        num_read = 0
        for row in self.part.rows():
            num_read += 1
            if isinstance(row, BadRow):
                rejections.append(rejection(row.where, row.reason))
                continue
            name = row.dataset or self.name
            language = tags[row.language]
            if reason := _wrong(row, name, language):
                rejections.append(rejection(row.where, reason, row.item_id, row.language))
                continue
            datasets.add(name)
            rows.add(row, name, language, make_key(self.seed, name, row.item_id))
        rows.flush()
        self.folder.write("rejected.jsonl", json_lines(rejections))
        return {
            "num_read": num_read,
            "num_files": rows.num_files,
            "rejected": Counter(one["reason"] for one in rejections),
            "first_rejected": rejections[0] if rejections else None,
            "datasets": sorted(datasets),
            "source": self.name,
            "licence": self.licence,
        }


def rejection(where: str, reason: str, item_id: str = "", language: str = "") -> dict[str, str]:
    """A line of `rejected.jsonl`."""
    return {"where": where, "reason": reason, "item_id": item_id[:200], "language": language[:200]}


def bucket_of(hashes: np.ndarray, num_buckets: int) -> np.ndarray:
    """A range of hashes is a bucket: buckets in order are hashes in order."""
    bits = num_buckets.bit_length() - 1
    return (hashes >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(hashes), np.int64)


def deal(table: pa.Table, buckets: np.ndarray, num_buckets: int) -> list[pa.RecordBatch]:
    """The rows of every bucket, in their order."""
    table = table.take(pa.array(np.argsort(buckets, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(buckets, minlength=num_buckets)).tolist()
    whole = table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], schema=table.schema)
    return [whole.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(slots=True)
class _Rows:
    """Rows on their way into files."""

    folder: Folder
    num_buckets: int
    num_files: int = 0
    _columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    _num_characters: int = 0

    def add(self, row: SourceRow, dataset: str, language: str, key: int) -> None:
        columns = self._columns
        columns["dataset"].append(dataset)
        columns["item_id"].append(row.item_id)
        columns["language"].append(language)
        columns["question"].append(row.question)
        columns["passage"].append(row.passage)
        columns["answer"].append(row.answer)
        columns["question_id"].append(row.question_id)
        columns["passage_id"].append(row.passage_id)
        columns["where"].append(row.where)
        columns["hash"].append(key)
        self._num_characters += len(row.question) + len(row.passage)
        if len(columns["hash"]) >= _MAX_ROWS or self._num_characters >= _MAX_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if not self._columns:
            return
        hashes = np.array(self._columns["hash"], np.uint64)
        table = pa.table(dict(self._columns), schema=SCHEMA)
        self._columns.clear()
        self._num_characters = 0
        with (
            explained(str(self.folder)),
            self.folder.create_arrow(f"{self.num_files:05d}.arrow", SCHEMA) as sink,
        ):
            for batch in deal(table, bucket_of(hashes, self.num_buckets), self.num_buckets):
                sink.write(batch)
        self.num_files += 1


def _wrong(row: SourceRow, dataset: str, language: str) -> str:
    """Why a row cannot be taken; empty where it can. The same words for the same fault: rejections are counted."""
    if not _can_be_folder(dataset):
        return "dataset's name may hold only letters, digits, spaces and ._+-, at most 60"
    if not language:
        return "language is no BCP-47 tag"
    if not row.item_id.strip():
        return "item id is empty"
    for part in ("item_id", "question_id", "passage_id", "question", "passage", "answer"):
        if problem := unstorable_reason(getattr(row, part)):
            return f"{part.replace('_', ' ')} holds {problem}"
    for side in ("question", "passage"):
        text: str = getattr(row, side)
        if not text or text.isspace():
            return f"{side} is empty"
    return ""


class _Tags(dict[str, str]):
    """What a source calls a language → what the store calls it; empty for what is no language.

    `renamed` is tried first as the source spells it, so that it can name what is no tag, and then by the canonical tag.
    """

    def __init__(self, renamed: Mapping[str, str]) -> None:
        super().__init__()
        canonical = ((_canonical(spelling), tag) for spelling, tag in renamed.items())
        self._renamed = {**{spelling: tag for spelling, tag in canonical if spelling}, **renamed}

    def __missing__(self, spelling: str) -> str:
        tag = _canonical(spelling)
        known = self._renamed.get(spelling.strip()) or (self._renamed.get(tag) if tag else None) or tag
        if len(self) < _MAX_TAGS:
            self[spelling] = known
        return known


def _canonical(spelling: str) -> str:
    try:
        return normalise_tag(spelling)
    except ValueError:
        return ""


@lru_cache(maxsize=10_000)
def _can_be_folder(name: str) -> bool:
    return bool(_DATASET_NAME.fullmatch(name))
