"""`prepare`: run all stages in order, from the sources to a complete store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

from hbt_ray.console import Screen
from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.data.index.manifest import DatasetInfo, Manifest, Shard
from hbt_ray.data.prepare.config import StoreConfig
from hbt_ray.data.prepare.decontaminate import Decontaminator
from hbt_ray.data.prepare.group import find_duplicates, group_bucket
from hbt_ray.data.prepare.hash_buckets import Bucket
from hbt_ray.data.prepare.read import read_part
from hbt_ray.data.prepare.relevant_passages import find_equal_texts, find_relevant_passages
from hbt_ray.data.prepare.task_runner import (
    READ_FOLDER,
    WORK_FOLDER,
    Executor,
    Task,
    TaskResult,
    TaskRunner,
    check_dataset_folders,
    in_process,
    is_work_folder,
    open_work_folder,
)
from hbt_ray.data.prepare.write import assemble_bucket, dataset_layouts, write_dataset_shard
from hbt_ray.data.sources.file_sources import SourcePart
from hbt_ray.data.store.store import MANIFEST, read_manifest
from hbt_ray.errors import HbtError, SourceError, StoreError
from hbt_ray.storage.location import Folder

REJECTED, REMOVED = "rejected.jsonl", "removed.jsonl"
_BUCKETS_PER_SHARE = 8
"""Buckets per share of the hashes: hashes take about a tenth of the space of the rows, so they need fewer tasks."""


class PrepareResult(NamedTuple):
    """The manifest and the number of rows by outcome: read = kept + rejected + overlapping + duplicates."""

    manifest: Manifest
    num_read: int
    rejected: Counter[str]
    """Reason → rows."""
    overlapping: Counter[str]
    """Dataset → rows of items that overlap with the evaluation data."""
    duplicates: Counter[str]
    """Dataset → rows with the text of another item."""
    already_existed: bool = False
    """Whether the store was complete before this call, which then read nothing."""

    @property
    def num_kept(self) -> int:
        """Rows in the store: one for each language of each item."""
        return sum(sum(info.items_by_language.values()) for info in self.manifest.datasets)


def prepare(config: StoreConfig, executor: Executor = in_process, screen: Screen | None = None) -> PrepareResult:
    """Make the store of a configuration. After a kill the same call continues where it stopped.

    Args:
        executor: runs the tasks of a stage in this process or on a cluster; the store is the same.
        screen: shows progress; by default nothing is shown.

    Raises:
        SourceError: a source is missing or malformed, or more than `max_rejected` of the rows are invalid.
        StoreError: `config.path` holds another store, or files that `hbt prepare` did not write.
        LockedError: another command prepares this store.
    """
    store, fingerprint = Folder(config.path), config.fingerprint()
    if store.exists(MANIFEST):
        manifest = read_manifest(config.path)
        if manifest.spec != fingerprint:
            raise StoreError(
                f"{store}: contains a store that was made with other settings or sources. Choose another path, or "
                "remove it first",
                code="OTHER_STORE",
            )
        # A run that was killed after it wrote the manifest left its work folder.
        if is_work_folder(store / WORK_FOLDER):
            (store / WORK_FOLDER).remove()
        return PrepareResult(manifest, 0, Counter(), Counter(), Counter(), already_existed=True)
    with open_work_folder(store) as work:
        runner = TaskRunner(store, work, executor, screen or Screen(silent=True))
        result = _Pipeline(config, store, runner, fingerprint, config.num_buckets()).run()
        work.remove()
    return result


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """The stages of one run. Intermediate files are in `FINGERPRINT/STAGE` of the work folder."""

    config: StoreConfig
    store: Folder
    runner: TaskRunner
    fingerprint: str
    """`StoreConfig.fingerprint`, computed once, because it reads the state of every source file."""
    num_buckets: int

    def run(self) -> PrepareResult:
        reads = self._read()
        # Fail before the long stages; grouping may reject further rows.
        self._check_rejections(reads, groups=[])
        files = tuple(
            (self.runner.folder / read["key"], f"{number:05d}.arrow")
            for read in reads
            for number in range(read["num_files"])
        )
        buckets = [Bucket(files, number) for number in range(self.num_buckets)] if files else []
        num_shares = max(1, self.num_buckets // _BUCKETS_PER_SHARE) if buckets else 0

        folders = [self._folder(stage) for stage in ("group", "duplicates", "equal", "relevant", "assemble")]
        grouped, duplicates, equal, relevant, assembled = folders
        decontaminator, deduplicate = self._decontaminator(), self.config.deduplicate
        groups = self._run("group", "grouping", [
            partial(group_bucket, grouped, bucket, decontaminator, num_shares, deduplicate) for bucket in buckets
        ])  # fmt: skip
        self._check_rejections(reads, groups)
        duplicate_counts = self._run("duplicates", "finding duplicates", [
            partial(find_duplicates, duplicates, grouped, share, len(buckets))
            for share in range(num_shares if deduplicate else 0)
        ])  # fmt: skip
        self._run("equal", "finding equal questions and passages", [
            partial(find_equal_texts, equal, grouped, share, len(buckets)) for share in range(num_shares)
        ])  # fmt: skip
        relevant_results = self._run("relevant", "finding right passages", [
            # One task, or none if there are no buckets.
            partial(find_relevant_passages, relevant, equal, num_shares, len(buckets)) for _ in buckets[:1]
        ])  # fmt: skip
        for warning in filter(None, (result["warning"] for result in relevant_results)):
            self.runner.screen.log(warning)
        removed = duplicates if deduplicate else None
        items = self._run("assemble", "assembling items", [
            partial(assemble_bucket, assembled, bucket, grouped, removed, relevant, num_shares) for bucket in buckets
        ])  # fmt: skip

        manifest = Manifest(datasets=self._write_shards(assembled, items, reads), spec=self.fingerprint)
        result = PrepareResult(
            manifest,
            num_read=sum(read["num_read"] for read in reads),
            rejected=_sum_counts([*reads, *groups], "rejected"),
            overlapping=_sum_counts(groups, "overlapping"),
            duplicates=_sum_counts(duplicate_counts, "duplicates"),
        )
        self._check_result(result)
        self._publish(manifest, reads, len(buckets))
        return result

    def _run(self, stage: str, description: str, tasks: Sequence[Task]) -> list[TaskResult]:
        keys = (f"{self.fingerprint}/{stage}/{number:05d}" for number in range(len(tasks)))
        return self.runner.run(description, dict(zip(keys, tasks, strict=True)))

    def _read(self) -> list[TaskResult]:
        tasks: dict[str, Task] = {}
        for number, source in enumerate(self.config.sources):
            # The key depends on this source only: it is not read again if the others change.
            name = f"{READ_FOLDER}/{number:03d}-{self.config.read_fingerprint(source, self.num_buckets)}"
            parts: Sequence[SourcePart] = source.parts()
            for part_number, part in enumerate(parts):
                key = f"{name}/{part_number:05d}"
                folder, config = self.runner.folder / key, self.config
                tasks[key] = partial(read_part, folder, source, part, config.languages, self.num_buckets, config.seed)
        return self.runner.run("reading", tasks)

    def _decontaminator(self) -> Decontaminator | None:
        if not self.config.decontaminate:
            return None
        self.runner.screen.log("reading the evaluation data")
        rows = (row for source in self.config.decontaminate for row in source.rows() if isinstance(row, SourceRow))
        return Decontaminator(text for row in rows for text in (row.question, row.passage))

    def _write_shards(
        self, assembled: Folder, items: Sequence[TaskResult], reads: Sequence[TaskResult]
    ) -> tuple[DatasetInfo, ...]:
        layouts = list(dataset_layouts(items, self.config.shard_items))
        check_dataset_folders(self.store, [layout.name for layout in layouts])
        tasks: dict[str, Task] = {
            f"{self.fingerprint}/write/{layout.name}/{number:05d}": partial(
                write_dataset_shard, self.store, assembled, layout.name, number, slices, layout.text_columns
            )
            for layout in layouts
            for number, slices in enumerate(layout.shards)
        }
        # In the order of `tasks`: dataset by dataset, shard by shard.
        results = iter(self.runner.run("writing shards", tasks))
        licences: defaultdict[str, dict[str, str]] = defaultdict(dict)  # Dataset → source → licence
        for read in reads:
            for name in read["datasets"]:
                licences[name][read["source"]] = read["licence"]
        return tuple(
            DatasetInfo(
                name=layout.name,
                groups=layout.groups,
                max_right=layout.max_right,
                shards=tuple(
                    Shard(**{field: result[field] for field in Shard.model_fields})
                    for result in islice(results, len(layout.shards))
                ),
                sources=tuple(licences[layout.name]),
                licences=tuple(sorted({*licences[layout.name].values()} - {""})),
            )
            for layout in layouts
        )

    def _check_rejections(self, reads: Sequence[TaskResult], groups: Sequence[TaskResult]) -> None:
        """Raises: SourceError if there are no rows, or more than `max_rejected` of them were rejected."""
        num_read, num_rejected = sum(read["num_read"] for read in reads), _sum_counts([*reads, *groups], "rejected")
        if num_read == 0:
            names = ", ".join(source.name for source in self.config.sources)
            raise SourceError(f"{self.store}: its sources contain no rows: {names}", code="NO_ROWS")
        if num_rejected.total() > self.config.max_rejected * num_read:
            # Written although no store is made, so that the user can look at the rejected rows.
            self._concatenate(REJECTED, self._rejected_lines(reads, num_buckets=len(groups)))
            first = next(result["first_rejected"] for result in (*reads, *groups) if result["first_rejected"])
            item = f" (item {first['item_id']!r}, language {first['language']!r})" if first["language"] else ""
            raise SourceError(
                f"{num_rejected.total()} of {num_read} rows are invalid, more than "
                f"max_rejected={self.config.max_rejected:g} allows; no store was made. The first one is "
                f"{first['where']}: {first['reason']}{item}. All are listed in {self.store / REJECTED}",
                code="REJECTED_ROWS",
            )

    def _check_result(self, result: PrepareResult) -> None:
        """Raises: SourceError if no items are left. HbtError if rows were lost."""
        if not result.manifest.datasets and result.overlapping:
            raise SourceError(
                f"{self.store}: every item overlaps with the evaluation data, so no item is left to store",
                code="NO_ROWS",
            )
        num_removed = result.rejected.total() + result.overlapping.total() + result.duplicates.total()
        if result.num_read != result.num_kept + num_removed:
            raise HbtError(
                f"{self.store}: {result.num_read} rows were read, {result.num_kept} kept and {num_removed} removed; "
                "the numbers do not add up, which is a bug of hbt_ray. Please report it",
                code="ROW_COUNT",
            )

    def _publish(self, manifest: Manifest, reads: Sequence[TaskResult], num_buckets: int) -> None:
        """Write the reports and, last, the manifest, which makes the folder a store."""
        self._concatenate(REJECTED, self._rejected_lines(reads, num_buckets))
        removed = (
            self._folder(stage).read(f"{number:05d}.{REMOVED}")
            for stage in ("group", "assemble")
            for number in range(num_buckets)
        )
        self._concatenate(REMOVED, removed)
        shards = {shard.file for info in manifest.datasets for shard in info.shards}
        # Before the manifest: a folder with a manifest holds exactly the shards that it lists.
        self.runner.remove_stale_shards(self.fingerprint, shards)
        self.store.write(MANIFEST, manifest.to_json())

    def _rejected_lines(self, reads: Sequence[TaskResult], num_buckets: int) -> Iterator[bytes]:
        for read in reads:
            yield (self.runner.folder / read["key"]).read(REJECTED)
        for number in range(num_buckets):
            yield self._folder("group").read(f"{number:05d}.{REJECTED}")

    def _concatenate(self, name: str, parts: Iterable[bytes]) -> None:
        with self.store.create(name) as stream:
            for part in parts:
                stream.write(part)

    def _folder(self, stage: str) -> Folder:
        return self.runner.folder / self.fingerprint / stage


def _sum_counts(results: Iterable[TaskResult], name: str) -> Counter[str]:
    return sum((Counter(result.get(name, {})) for result in results), Counter())
