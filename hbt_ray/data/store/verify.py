"""Compare a store with its manifest, byte by byte and row by row.

Every shard is read once. Problems are listed and not repaired; nothing is written. The shards of a store under a URI
are copied to this machine one by one, and the copies are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import fs

from hbt_ray.data.index.manifest import DatasetInfo, Shard
from hbt_ray.data.store.columns import PASSAGE_KEY, RIGHT_KEYS, SIDES
from hbt_ray.data.store.node_cache import ARROW_ERRORS, map_file
from hbt_ray.data.store.shard_checksums import ShardChecksums
from hbt_ray.data.store.store import MANIFEST, read_manifest
from hbt_ray.errors import StoreError
from hbt_ray.storage import file_sha256, temporary_folder
from hbt_ray.storage.location import join_location
from hbt_ray.storage.object_store import filesystem, is_uri, with_retries

_NUM_THREADS = 4
_TEXT_TYPES = (pa.string(), pa.large_string())
_KEY_TYPES = {PASSAGE_KEY: (pa.int64(),), RIGHT_KEYS: (pa.list_(pa.int64()),)}
"""Column → allowed types."""


class Problem(NamedTuple):
    """A difference between a store and its manifest."""

    file: str
    subject: str
    """Property of the file that differs, such as `sha256` or `rows`."""
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.subject}: expected {self.expected}, found {self.found}; copy the store again from "
            "where it was prepared, or prepare the store again"
        )


class VerifyReport(NamedTuple):
    """Size of a store and the problems found in it."""

    num_shards: int
    num_items: int
    num_bytes: int
    problems: tuple[Problem, ...]


def verify(location: str, advance: Callable[[int], None] = lambda _: None) -> VerifyReport:
    """Compare a store with its manifest.

    Args:
        advance: called with 1 after every shard, for progress.

    Raises:
        StoreError: there is no store at `location`, or its storage does not answer.
    """
    manifest = read_manifest(location)
    file_by_sha256 = {shard.sha256: shard.file for info in manifest.datasets for shard in info.shards}
    problems, checks = [], []
    for info in manifest.datasets:
        num_stored = sum(shard.num_items for shard in info.shards)
        if num_stored != info.num_items:
            in_groups, in_shards = f"{info.num_items:,} by its groups of languages", f"{num_stored:,} in its shards"
            problems.append(Problem(MANIFEST, f"items of dataset {info.name}", in_groups, in_shards))
        first_item = 0
        for shard in info.shards:
            checks.append(partial(_verify_shard, location, shard, info, first_item, file_by_sha256))
            first_item += shard.num_items
    num_bytes = 0
    # Threads suffice: hashing and Arrow release the interpreter lock. `map` keeps the order of the shards.
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for size, shard_problems in pool.map(lambda check: check(), checks):
            num_bytes += size
            problems += shard_problems
            advance(1)
    return VerifyReport(len(checks), manifest.num_items, num_bytes, tuple(problems))


def raise_for_problems(location: str, report: VerifyReport) -> None:
    """Raise `StoreError` with the first problem of the report, if there is any."""
    if report.problems:
        number, shards = len(report.problems), report.num_shards
        raise StoreError(
            f"{location}: {number} problem{'s' * (number > 1)} in {shards:,} shard{'s' * (shards != 1)}; first: "
            f"{report.problems[0]}",
            code="DAMAGED_STORE",
        )


def _verify_shard(
    location: str, shard: Shard, info: DatasetInfo, first_item: int, file_by_sha256: dict[str, str]
) -> tuple[int, list[Problem]]:
    """Size of a shard in bytes, and its problems.

    Args:
        first_item: number of the shard's first item in the dataset.
        file_by_sha256: SHA-256 → shard, to recognise exchanged shards.
    """
    problems = []
    try:
        with _local_copy(location, shard.file) as path:
            size = path.stat().st_size
            sha256 = file_sha256(path)
            if sha256 != shard.sha256:
                other = f" (that of {file_by_sha256[sha256]})" if sha256 in file_by_sha256 else ""
                problems.append(Problem(shard.file, "sha256", shard.sha256[:16], sha256[:16] + other))
            # An exchanged shard differs in all of its content; listing that would only repeat the problem.
            if sha256 == shard.sha256 or sha256 not in file_by_sha256:
                reader = map_file(path)
                if sha256 == shard.sha256:
                    ShardChecksums.of_schema(reader.schema, shard.checksums)
                problems += _content_problems(reader, shard, info, first_item)
            return size, problems
    except FileNotFoundError:
        return 0, [Problem(shard.file, "file", "a shard", "none")]
    except ARROW_ERRORS as error:
        reason = " ".join(str(error).split())
        return 0, [*problems, Problem(shard.file, "content", "an Arrow file", f"none ({reason})")]


@contextmanager
def _local_copy(location: str, file: str) -> Iterator[Path]:
    """The path of a shard on this machine; a shard of an object store is copied for the duration of the block."""
    if not is_uri(location):
        yield Path(location) / file
        return
    system, source = filesystem(location, file)
    with temporary_folder("verify") as folder:
        path = folder / "shard.arrow"
        copy = partial(fs.copy_files, source, str(path), system, fs.LocalFileSystem())
        with_retries(copy, join_location(location, file))
        yield path


def _content_problems(reader: Any, shard: Shard, info: DatasetInfo, first_item: int) -> Iterator[Problem]:
    """Yield wrong columns, a wrong number of rows, and values that are missing or should not exist."""
    table = reader.read_all()
    table.validate(full=True)
    texts = {f"{side}.{language}" for language in info.languages for side in SIDES}
    types = dict.fromkeys(("item_id", "passage_id", *texts), _TEXT_TYPES) | _KEY_TYPES
    for name in sorted(types.keys() - {*table.column_names}):
        # Answers are optional.
        if not name.startswith("answer."):
            yield Problem(shard.file, f"column {name}", "a column of this name", "none")
    for field in table.schema:
        if field.name not in types:
            yield Problem(shard.file, f"column {field.name}", "none of this name", "a column")
        elif field.type not in types[field.name]:
            yield Problem(shard.file, f"type of column {field.name}", str(types[field.name][0]), str(field.type))
    items = np.arange(first_item, first_item + table.num_rows)
    if table.num_rows != shard.num_items:
        yield Problem(shard.file, "rows", f"{shard.num_items:,}", f"{table.num_rows:,}")
    # If the numbers of items do not fit, the languages of the rows are unknown.
    are_known = table.num_rows == shard.num_items and first_item + table.num_rows <= info.num_items
    # Group of each row, [rows]; the order of the items gives their languages.
    groups = np.searchsorted(np.cumsum([group.num_items for group in info.groups]), items, side="right")
    for name, column in zip(table.column_names, table.columns, strict=True):
        side, _, language = name.partition(".")
        num_missing, num_surplus = column.null_count if not language else 0, 0
        if are_known and language in info.languages:
            has_language = np.array([language in group.languages for group in info.groups])[groups]  # [rows]
            present = column.is_valid().to_numpy()
            num_missing = int((has_language & ~present).sum()) if side != "answer" else 0
            num_surplus = int((present & ~has_language).sum())
        if num_missing:
            expected = "a value in every item that has the language"
            yield Problem(shard.file, f"column {name}", expected, f"{num_missing:,} missing")
        if num_surplus:
            yield Problem(
                shard.file, f"column {name}", "no value in items without the language", f"{num_surplus:,} values"
            )
