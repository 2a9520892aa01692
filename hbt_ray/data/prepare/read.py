"""Stage 1: read a part of a source, check its rows, and deal them into buckets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from hbt_ray.data.formats.files import naming_read_errors
from hbt_ray.data.formats.source_row import BadRow, SourceRow, unstorable_reason
from hbt_ray.data.index.permutation import make_key
from hbt_ray.data.prepare.hash_buckets import ROW_SCHEMA, bucket_of, rejection_record, write_buckets
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.data.sources.file_sources import Source, SourcePart
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.storage import encode_json_lines
from hbt_ray.storage.location import Folder

_MAX_CACHED_TAGS = 10_000
"""Bound of the cache of tags: a column that does not hold languages may have any number of values."""
_MAX_ROWS, _MAX_CHARACTERS = 100_000, 48 << 20
"""Bounds of one file of rows, which a task holds in memory."""
_DATASET_NAME = re.compile(r"(?!(?:manifest\.json|rejected\.jsonl|removed\.jsonl)$)\w[\w .+-]{0,59}")
"""Valid names of a dataset's folder, which must not be a file of the store; 60 characters are at most 240 bytes."""


def read_part(
    folder: Folder, source: Source, part: SourcePart, languages: Mapping[str, str], num_buckets: int, seed: int
) -> TaskResult:
    """Task: read one part of a source into files of buckets in `folder`.

    Args:
        languages: language in the source → language in the store.

    Returns:
        Numbers of rows and files, reasons of rejections, and the datasets in this part.
    """
    writer = _RowWriter(folder, num_buckets)
    rejections: list[dict[str, str]] = []
    datasets: set[str] = set()
    # The source's own spelling comes first, so that values that are not tags can be renamed; then the canonical tag.
    canonical = ((_canonical_tag(spelling), language) for spelling, language in languages.items())
    renamed = {**{tag: language for tag, language in canonical if tag}, **languages}

    @lru_cache(_MAX_CACHED_TAGS)
    def language_of(spelling: str) -> str:
        tag = _canonical_tag(spelling)
        # First the source's spelling, then the canonical tag; a language that is not renamed keeps its tag.
        return renamed.get(spelling.strip()) or (tag and renamed.get(tag)) or tag

    num_read = 0
    for row in part.rows():
        num_read += 1
        if isinstance(row, BadRow):
            rejections.append(rejection_record(row.where, row.reason))
            continue
        dataset = row.dataset or source.name
        language = language_of(row.language)
        if reason := _problem(row, dataset, language):
            rejections.append(rejection_record(row.where, reason, row.item_id, row.language))
            continue
        datasets.add(dataset)
        writer.add(row, dataset, language, make_key(seed, dataset, row.item_id))
    writer.flush()
    # Written even if empty: the reports are joined from the files of all parts.
    folder.write("rejected.jsonl", encode_json_lines(rejections))
    return {
        "num_read": num_read,
        "num_files": writer.num_files,
        "rejected": Counter(record["reason"] for record in rejections),
        "first_rejected": rejections[0] if rejections else None,
        "datasets": sorted(datasets),
        "source": source.name,
        "licence": source.licence,
    }


@dataclass(slots=True)
class _RowWriter:
    """Collects rows and writes them as files of buckets."""

    folder: Folder
    num_buckets: int
    num_files: int = 0
    _columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    """Column of `ROW_SCHEMA` → values of the rows that are not written yet."""
    _num_characters: int = 0

    def add(self, row: SourceRow, dataset: str, language: str, item_hash: int) -> None:
        columns = self._columns
        columns["dataset"].append(dataset)
        columns["language"].append(language)
        columns["hash"].append(item_hash)
        for name in ("item_id", "question", "passage", "answer", "question_id", "passage_id", "where"):
            columns[name].append(getattr(row, name))
        self._num_characters += len(row.question) + len(row.passage)
        if len(columns["hash"]) >= _MAX_ROWS or self._num_characters >= _MAX_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if not self._columns:
            return
        buckets = bucket_of(np.array(self._columns["hash"], np.uint64), self.num_buckets)
        table = pa.table(dict(self._columns), schema=ROW_SCHEMA)
        self._columns.clear()
        self._num_characters = 0
        with naming_read_errors(str(self.folder)):
            write_buckets(self.folder, f"{self.num_files:05d}.arrow", table, buckets, self.num_buckets)
        self.num_files += 1


def _problem(row: SourceRow, dataset: str, language: str) -> str:
    """Reason why a row is rejected; empty if it is valid. Rejections are counted by this text."""
    if not _DATASET_NAME.fullmatch(dataset):
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
        # `isspace` makes no copy of the text, as `strip` would.
        if not text or text.isspace():
            return f"{side} is empty"
    return ""


def _canonical_tag(spelling: str) -> str:
    """The canonical BCP-47 tag; empty if the text is not a tag."""
    try:
        return normalise_tag(spelling)
    except ValueError:
        return ""
