"""The job: the stages in order, from the sources to a store that is there."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from hbt_ray.console import Screen
from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.data.index.manifest import DatasetInfo, Manifest, Shard
from hbt_ray.data.prepare.assemble import AssembleBucket
from hbt_ray.data.prepare.config import StoreConfig
from hbt_ray.data.prepare.decontaminate import Decontaminator
from hbt_ray.data.prepare.deduplicate import FindDuplicates
from hbt_ray.data.prepare.group import Bucket, GroupBucket
from hbt_ray.data.prepare.read import ReadPart
from hbt_ray.data.prepare.relevant_passages import MAX_RIGHT, FindEqualTexts, FindRelevantPassages
from hbt_ray.data.prepare.task_runner import Executor, TaskResult, TaskRunner, in_process
from hbt_ray.data.prepare.write import layouts
from hbt_ray.data.sources.source import SourcePart
from hbt_ray.data.store.store import MANIFEST, read_manifest
from hbt_ray.errors import HbtError, SourceError, StoreError
from hbt_ray.storage import atomic_folder, exclusive_lock, file_sha256, remove_tree
from hbt_ray.storage.folder import Folder

REJECTED, REMOVED = "rejected.jsonl", "removed.jsonl"
WORK_FOLDER = ".prepare"
"""Folder of a store that is being made."""
ABOUT = "about.txt"
"""File of the work folder; a folder without it was not made by us and is not deleted."""
_ABOUT = b"Intermediate files of `hbt prepare`, which deletes this folder when the store is complete.\n"
_BUCKETS_PER_SHARE = 8
"""A row's hashes take some tenth of the row's room, so fewer tasks can compare all hashes than all rows."""


class PrepareResult(NamedTuple):
    """What became of the rows: `read = kept + rejected + overlapping + duplicates`, always."""

    manifest: Manifest
    num_read: int
    rejected: Counter[str]
    """Reason → rows."""
    overlapping: Counter[str]
    """Dataset → rows of items that overlap with the evaluation data."""
    duplicates: Counter[str]
    """Dataset → rows with the text of another item."""
    already_existed: bool = False
    """The same store stood there already; nothing was read."""

    @property
    def num_kept(self) -> int:
        """Rows that are stored: an item has one a language."""
        return sum(sum(info.items_by_language.values()) for info in self.manifest.datasets)


def prepare(config: StoreConfig, spread: Executor = in_process, screen: Screen | None = None) -> PrepareResult:
    """Make the store that `config` describes; after a kill, the same call goes on where it stopped.

    Args:
        spread: does the tasks of a stage, in this process or on a cluster; the store is the same.
        screen: told what happens, for progress; by default nobody is.

    Raises:
        SourceError: a source is missing or malformed, or more than `max_rejected` of the rows are bad.
        StoreError: another store stands at `config.path`, or another process is making one there.
    """
    store, fingerprint = Folder(config.path), config.fingerprint()
    if store.exists(MANIFEST):
        manifest = read_manifest(config.path)
        if manifest.spec != fingerprint:
            raise StoreError(
                f"{store}: holds a store made from other settings or sources; give another path, or remove it first"
            )
        if _is_work(store / WORK_FOLDER):
            (store / WORK_FOLDER).remove()
        return PrepareResult(manifest, 0, Counter(), Counter(), Counter(), already_existed=True)
    with _work_folder(store) as folder:
        work = TaskRunner(store, folder, spread, screen or Screen(silent=True))
        prepared = _Job(config, store, work, fingerprint, config.num_buckets()).run()
        folder.remove()
    return prepared


@contextmanager
def _work_folder(store: Folder) -> Iterator[Folder]:
    """The folder of a job's intermediate files, for one command at a time.

    Nothing can be locked in an object store; two jobs there write the same bytes.

    Raises:
        StoreError: something else stands in the store's place or in that of the work folder.
        LockedError: another command makes this store.
    """
    work, path = store / WORK_FOLDER, store.local
    if path is None:
        _require_own(store)
        work.write(ABOUT, _ABOUT)
        yield work
        return
    if os.path.lexists(path) and not path.is_dir():
        raise StoreError(f"{path}: exists but is not a folder; give another path", code="NOT_A_STORE")
    is_new = not path.exists()
    try:
        with exclusive_lock(path / WORK_FOLDER, "hbt prepare"):
            _require_own(store)
            if not _is_work(work):
                with atomic_folder(path / WORK_FOLDER) as scratch:
                    (scratch / ABOUT).write_bytes(_ABOUT)
            try:
                yield work
            finally:
                if work.names() == [ABOUT]:  # Nothing was done that another run could use.
                    work.remove()
    finally:
        if is_new:
            with suppress(OSError):
                path.rmdir()


def _require_own(store: Folder) -> None:
    """Hidden files of the system and scratch files of a command that died do not matter.

    Raises:
        StoreError: the folder holds files of somebody else, or its work folder is not one of ours.
    """
    work, names = store / WORK_FOLDER, store.names()
    path = work.local
    is_folder = path is None or (path.is_dir() and not path.is_symlink())
    if WORK_FOLDER in names and not _is_work(work) and (not is_folder or work.names()):
        raise StoreError(
            f"{work}: exists but was not made by `hbt prepare`; nothing was changed. Give another path",
            code="NOT_A_STORE",
        )
    if WORK_FOLDER not in names and any(not name.startswith(".") for name in names):
        raise StoreError(
            f"{store}: exists but is not a store, so it is left alone; give another path", code="NOT_A_STORE"
        )


def _is_work(work: Folder) -> bool:
    """Whether `hbt prepare` made this folder. What a link points to is somebody else's."""
    path = work.local
    return not (path and path.is_symlink()) and work.exists(ABOUT) and work.read(ABOUT) == _ABOUT


@dataclass(frozen=True, slots=True)
class _Job:
    config: StoreConfig
    store: Folder
    work: TaskRunner
    fingerprint: str
    """Of the recipe: asked for once, as it looks at every file of the sources."""
    num_buckets: int

    def run(self) -> PrepareResult:
        work, base = self.work, self.work.folder / self.fingerprint
        num_shares = max(1, self.num_buckets // _BUCKETS_PER_SHARE)

        reads = self._read()
        self._fail_if_too_many(reads, reads)
        files = tuple((work.folder / one["key"], f"{n:05d}.arrow") for one in reads for n in range(one["num_files"]))
        buckets = [Bucket(files, number) for number in range(self.num_buckets)] if files else []
        grouped, compared, equal, joined, packed = (
            base / name for name in ("group", "duplicates", "equal", "join", "pack")
        )
        overlap = self._evaluation_texts()
        groups = work.stage("grouping", {
            self._key("group", one.number): GroupBucket(grouped, one, overlap, num_shares, self.config.deduplicate)
            for one in buckets
        })  # fmt: skip
        self._fail_if_too_many(reads, [*reads, *groups])
        duplicates = work.stage("finding duplicates", {
            self._key("duplicates", share): FindDuplicates(compared, grouped, share, len(buckets))
            for share in range(num_shares if buckets and self.config.deduplicate else 0)
        })  # fmt: skip
        work.stage("finding equal questions and passages", {
            self._key("equal", share): FindEqualTexts(equal, grouped, share, len(buckets))
            for share in range(num_shares if buckets else 0)
        })  # fmt: skip
        joins = work.stage("joining items", {
            self._key("join", 0): FindRelevantPassages(joined, equal, num_shares, len(buckets)) for _ in buckets[:1]
        })  # fmt: skip
        self._say_if_crowded(joins)
        packs = work.stage("packing items", {
            self._key("pack", one.number): AssembleBucket(
                packed, one, grouped, compared if self.config.deduplicate else None, joined, num_shares
            ) for one in buckets
        })  # fmt: skip
        manifest = Manifest(datasets=self._write(packed, packs, reads), spec=self.fingerprint)
        if not manifest.datasets and _total(groups, "overlapping"):
            raise SourceError(
                f"every item of {self.store} overlaps with the evaluation data, so nothing is left to store"
            )

        prepared = PrepareResult(
            manifest, sum(read["num_read"] for read in reads), _total([*reads, *groups], "rejected"),
            _total(groups, "overlapping"), _total(duplicates, "duplicates"),
        )  # fmt: skip
        gone = prepared.rejected.total() + prepared.overlapping.total() + prepared.duplicates.total()
        if prepared.num_read != prepared.num_kept + gone:
            raise HbtError(f"{prepared.num_read} rows read, {prepared.num_kept} kept, {gone} not: a defect of hbt_ray")
        self._publish(manifest, reads, len(buckets))
        return prepared

    def _say_if_crowded(self, joins: Sequence[TaskResult]) -> None:
        if crowded := sum(one["crowded"] for one in joins):
            self.work.screen.say(
                f"{crowded:,} questions have more than {MAX_RIGHT + 1:,} right passages; in training, mining and "
                "validation the passages beyond that number count as wrong ones"
            )

    def _read(self) -> list[TaskResult]:
        tasks = {}
        for number, source in enumerate(self.config.sources):
            # A source that did not change is not read again, whatever became of the others.
            name = f"read/{number:03d}-{self.config.reading(source, self.num_buckets)}"
            parts: Sequence[SourcePart] = source.parts()
            for part_number, part in enumerate(parts):
                key = f"{name}/{part_number:05d}"
                tasks[key] = ReadPart(
                    self.work.folder / key,
                    source.name,
                    source.licence,
                    part,
                    self.config.languages,
                    self.num_buckets,
                    self.config.seed,
                )
        return self.work.stage("reading", tasks)

    def _fail_if_too_many(self, reads: Sequence[TaskResult], results: Sequence[TaskResult]) -> None:
        num_read, rejected = sum(read["num_read"] for read in reads), _total(results, "rejected")
        if num_read == 0:
            raise SourceError(
                f"the sources of {self.store} hold no rows at all: {', '.join(s.name for s in self.config.sources)}"
            )
        if rejected.total() > self.config.max_rejected * num_read:
            self._collect(REJECTED, self._rejected(reads, num_buckets=len(results) - len(reads)))
            first = next(result["first_rejected"] for result in results if result["first_rejected"])
            raise SourceError(
                f"{rejected.total()} of {num_read} rows are bad, more than max_rejected={self.config.max_rejected:g} "
                f"allows; no store was made. First: {_told(first)}. All are in {self.store / REJECTED}"
            )

    def _evaluation_texts(self) -> Decontaminator | None:
        if not self.config.decontaminate:
            return None
        self.work.screen.say("reading the evaluation data")
        rows = (row for source in self.config.decontaminate for row in source.rows() if isinstance(row, SourceRow))
        return Decontaminator(text for row in rows for text in (row.question, row.passage))

    def _write(
        self, packed: Folder, packs: Sequence[TaskResult], reads: Sequence[TaskResult]
    ) -> tuple[DatasetInfo, ...]:
        datasets = list(layouts(self.store, packed, packs, self.config.shard_items))
        self._require_no_links([one.name for one in datasets])
        keys = {one.name: [self._key(f"write/{one.name}", shard.number) for shard in one.shards] for one in datasets}
        tasks = {key: shard for one in datasets for key, shard in zip(keys[one.name], one.shards, strict=True)}
        written = {
            result["key"]: Shard(**{field: result[field] for field in Shard.model_fields})
            for result in self.work.stage("writing shards", tasks)
        }
        origins = _origins(reads)
        return tuple(
            DatasetInfo(
                name=one.name,
                groups=one.groups,
                max_right=one.max_right,
                shards=tuple(written[key] for key in keys[one.name]),
                sources=tuple(origins[one.name]),
                licences=tuple(sorted({*origins[one.name].values()} - {""})),
            )
            for one in datasets
        )

    def _require_no_links(self, datasets: Sequence[str]) -> None:
        """Raises: StoreError if shards would be written to where a link points, over the files of somebody else."""
        for path in (self.store.local / name for name in datasets if self.store.local):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise StoreError(
                    f"{path}: stands where a folder of shards is to be written, and is a link or a file; nothing was "
                    "changed. Remove it, or give another path",
                    code="NOT_A_STORE",
                )

    def _publish(self, manifest: Manifest, reads: Sequence[TaskResult], num_buckets: int) -> None:
        """The manifest last: without it there is no store."""
        self._collect(REJECTED, self._rejected(reads, num_buckets))
        self._collect(REMOVED, (
            (self.work.folder / self.fingerprint / stage).read(f"{number:05d}.removed.jsonl")
            for stage in ("group", "pack") for number in range(num_buckets)
        ))  # fmt: skip
        self._remove_stale({shard.file for info in manifest.datasets for shard in info.shards})
        self.store.write(MANIFEST, manifest.to_json())

    def _remove_stale(self, shards: set[str]) -> None:
        """Delete shards of earlier runs with other settings, which never ended: those that their results name."""
        for other in set(self.work.folder.names()) - {self.fingerprint, "read", ABOUT}:
            for dataset in (self.work.folder / other / "write").names():
                for name in (self.work.folder / other / "write" / dataset).names():
                    result = self.work.result(f"{other}/write/{dataset}/{name.removesuffix('.json')}")
                    if result and result["file"] not in shards:
                        self._remove_shard(result["file"], result["sha256"])

    def _remove_shard(self, file: str, sha256: str) -> None:
        root = self.store.local
        if root is None:
            (self.store / file).remove()
        elif not (root / file).parent.is_symlink() and file_sha256(root / file) == sha256:
            remove_tree(root / file)
            with suppress(OSError):  # Other files may lie there.
                (root / file).parent.rmdir()

    def _rejected(self, reads: Sequence[TaskResult], num_buckets: int) -> Iterator[bytes]:
        for read in reads:
            yield (self.work.folder / read["key"]).read(REJECTED)
        for number in range(num_buckets):
            yield (self.work.folder / self.fingerprint / "group").read(f"{number:05d}.{REJECTED}")

    def _collect(self, name: str, parts: Iterable[bytes]) -> None:
        with self.store.create(name) as stream:
            for part in parts:
                stream.write(part)

    def _key(self, stage: str, number: int) -> str:
        return f"{self.fingerprint}/{stage}/{number:05d}"


def _total(results: Iterable[TaskResult], what: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.get(what, {}))
    return counts


def _origins(reads: Sequence[TaskResult]) -> dict[str, dict[str, str]]:
    """Dataset → name of a source → its licence."""
    origins: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for read in reads:
        for name in read["datasets"]:
            origins[name][read["source"]] = read["licence"]
    return origins


def _told(rejected: dict[str, str]) -> str:
    subject = f" (item {rejected['item_id']!r}, language {rejected['language']!r})" if rejected["language"] else ""
    return f"{rejected['where']}: {rejected['reason']}{subject}"
