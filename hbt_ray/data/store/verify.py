"""Verify: is a store what its manifest says, byte for byte and row for row?

Every shard is read once. What is wrong is listed and not repaired; nothing is written. A store under a URI is copied to
this machine shard by shard, and the copies are removed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hbt_ray.data.index.manifest import DatasetInfo, Shard
from hbt_ray.data.store.columns import UNREADABLE, map_file, row_starts
from hbt_ray.data.store.remote_columns import KEY, RIGHT_KEYS
from hbt_ray.data.store.shard_checksums import ShardChecksums
from hbt_ray.data.store.store import MANIFEST, SIDES, read_manifest
from hbt_ray.errors import StoreError
from hbt_ray.storage import file_sha256, temporary_folder
from hbt_ray.storage.location import filesystem, is_uri, join_location, with_retries

_THREADS = 4
_AGAIN = "copy it again from where the store was prepared, or prepare the store again"
_PREPARE = "prepare the store again"


_NUMBERS = {KEY: (pa.int64(),), RIGHT_KEYS: (pa.list_(pa.int64()),)}
"""Types of the columns that hold no text."""


class Problem(NamedTuple):
    """Something that is not as the manifest says."""

    file: str
    what: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: expected {self.expected}, found {self.found}; {self.remedy}"


class VerifyReport(NamedTuple):
    num_shards: int
    num_items: int
    num_bytes: int
    problems: tuple[Problem, ...]


Promised = dict[str, NDArray[np.bool_]]
"""Language → whether each item has it, by the groups of the manifest."""
Told = tuple[str, str, str]
"""What, expected, found."""


def verify(location: str, watch: Callable[[int], None] = lambda _: None) -> VerifyReport:
    """Compare a store with its manifest.

    Args:
        watch: is told of every shard that is done.

    Raises:
        StoreError: there is no store there, or its storage does not answer.
    """
    manifest = read_manifest(location)
    names = {shard.sha256: shard.file for info in manifest.datasets for shard in info.shards}
    problems, work = [], []
    for info in manifest.datasets:
        num_stored = sum(shard.num_items for shard in info.shards)
        if num_stored != info.num_items:
            expected, found = f"{info.num_items:,} by its groups of languages", f"{num_stored:,} in its shards"
            problems.append(Problem(MANIFEST, f"items of dataset {info.name}", expected, found, _PREPARE))
        first = 0
        for shard in info.shards:
            work.append(partial(_check, location, shard, info, first, names))
            first += shard.num_items
    num_bytes = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for size, found in pool.map(lambda check: check(), work):
            num_bytes += size
            problems += found
            watch(1)
    return VerifyReport(len(work), manifest.num_items, num_bytes, tuple(problems))


def _check(
    location: str, shard: Shard, info: DatasetInfo, first: int, names: dict[str, str]
) -> tuple[int, list[Problem]]:
    """Bytes of a shard that begins with item `first`, and what is wrong with it."""
    problems = []
    try:
        with _on_this_machine(location, shard.file) as path:
            size = path.stat().st_size
            sha256 = file_sha256(path)
            if sha256 != shard.sha256:
                other = f" (that of {names[sha256]})" if sha256 in names else ""
                problems.append(Problem(shard.file, "sha256", shard.sha256[:16], sha256[:16] + other, _AGAIN))
            if sha256 == shard.sha256 or sha256 not in names:
                reader = map_file(path)
                if sha256 == shard.sha256:
                    ShardChecksums.parse(reader.schema.metadata, shard.checksums)
                told = _content(reader, shard, info, first)
                problems += [Problem(shard.file, *one, _PREPARE) for one in told]
            return size, problems
    except FileNotFoundError:
        return 0, [Problem(shard.file, "file", "a shard", "none", _AGAIN)]
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        return 0, [*problems, Problem(shard.file, "content", "an Arrow file", f"none ({reason})", _AGAIN)]


@contextmanager
def _on_this_machine(location: str, file: str) -> Iterator[Path]:
    if not is_uri(location):
        yield Path(location) / file
        return
    system, source = filesystem(location, file)
    with temporary_folder("verify") as folder:
        path = folder / "shard.arrow"

        def copy() -> None:
            with system.open_input_stream(source, compression=None) as stream, path.open("wb") as target:
                shutil.copyfileobj(stream, target, 1 << 22)

        with_retries(copy, join_location(location, file))
        yield path


def _content(reader: Any, shard: Shard, info: DatasetInfo, first: int) -> Iterator[Told]:
    yield from _schema(reader.schema, info.languages)
    num_rows = row_starts(reader)[-1]
    if num_rows != shard.num_items:
        yield "rows", f"{shard.num_items:,}", f"{num_rows:,}"
        yield from _gaps(reader, {})
    elif first + num_rows > info.num_items:
        yield from _gaps(reader, {})
    else:
        yield from _gaps(reader, _promised(info, first, num_rows))


def _schema(schema: pa.Schema, languages: tuple[str, ...]) -> Iterator[Told]:
    texts = {f"{side}.{language}" for language in languages for side in SIDES}
    optional = {f"answer.{language}" for language in languages}
    known = {"item_id", "passage_id", KEY, RIGHT_KEYS, *texts}
    for name in sorted(known - optional - {*schema.names}):
        yield f"column {name}", "there", "missing"
    for field in schema:
        wanted = _NUMBERS.get(field.name, (pa.string(), pa.large_string()))
        if field.name not in known:
            yield f"column {field.name}", "none of this name", "there"
        elif field.type not in wanted:
            yield f"type of column {field.name}", str(wanted[0]), str(field.type)


def _promised(info: DatasetInfo, first: int, num_items: int) -> Promised:
    ends = np.cumsum([group.num_items for group in info.groups])
    groups = np.searchsorted(ends, np.arange(first, first + num_items), side="right")
    return {
        language: np.array([language in group.languages for group in info.groups])[groups]
        for language in info.languages
    }


def _gaps(reader: Any, promised: Promised) -> Iterator[Told]:
    """Values that are missing, and texts in languages that the item does not have by the manifest."""
    missing: Counter[str] = Counter()
    surplus: Counter[str] = Counter()
    start = 0
    for batch in map(reader.get_batch, range(reader.num_record_batches)):
        batch.validate(full=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            side, _, language = name.partition(".")
            if not language:
                missing[name] += column.null_count
            elif language in promised:
                wanted = promised[language][start : start + batch.num_rows]
                there = column.is_valid().to_numpy(zero_copy_only=False)
                missing[name] += 0 if side == "answer" else int((wanted & ~there).sum())
                surplus[name] += int((there & ~wanted).sum())
        start += batch.num_rows
    for name in (name for name in missing if missing[name]):
        yield f"column {name}", "a value in every item that has the language", f"{missing[name]:,} missing"
    for name in (name for name in surplus if surplus[name]):
        yield f"column {name}", "nothing in items without the language", f"{surplus[name]:,} values"


def raise_for_problems(location: str, verified: VerifyReport) -> None:
    """Raises: StoreError if anything is wrong."""
    if verified.problems:
        number, shards = len(verified.problems), verified.num_shards
        raise StoreError(
            f"{location}: {number} problem{'s' * (number > 1)} in {shards:,} shard{'s' * (shards != 1)}; first: "
            f"{verified.problems[0]}"
        )
