"""Run the tasks of a stage, each of them once, in this process or as a Ray Data job.

The result of a task is a JSON file, written last, with the names and checksums of the files that the task wrote. A run
after a kill finds it and does not repeat the task, unless one of these files is missing or damaged. Two attempts of one
task (Ray may start a second one) write the same bytes.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hbt_ray.console import Screen
from hbt_ray.errors import DamagedFile, StoreError
from hbt_ray.ray_errors import failure, guarded_batches
from hbt_ray.storage import file_sha256, parse_checked_json, storage_error, with_checksum
from hbt_ray.storage.folder import Folder, recording_checksums
from hbt_ray.storage.location import join_location, without_options

logger = logging.getLogger(__name__)

TaskResult = dict[str, Any]
Task = Callable[[], TaskResult]
Executor = Callable[[list[Task]], Iterable[TaskResult]]
"""Runs tasks in any order and on any machine, and yields the result of each when it is done."""
_MAX_RETRIES = 3
"""Retries of a task whose process dies. Ray Data's default is to retry for ever."""
_NUM_THREADS = 4
"""Threads that look for results of an earlier run."""


def in_process(tasks: list[Task]) -> Iterator[TaskResult]:
    """Run the tasks one after the other in this process: for inputs so small that starting Ray would take longer."""
    return map(_run_task, tasks)


def on_ray(tasks: list[Task]) -> Iterator[TaskResult]:
    """Run the tasks as a Ray Data job with one block per task. Needs a Ray session."""
    import ray
    import ray.data

    reference = ray.put(tasks)  # Once, because the tasks may share the evaluation data.

    def run_batch(batch: dict[str, Any]) -> pa.Table:
        shared_tasks = ray.get(reference)
        try:
            results = [pickle.dumps(_run_task(shared_tasks[number])) for number in batch["id"].tolist()]
        except Exception as error:
            return failure(error)
        return pa.table({"result": results})

    dataset = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(
        run_batch, batch_size=1, ray_remote_args_fn=lambda: {"max_retries": _MAX_RETRIES}
    )
    dataset.context.enable_progress_bars = False
    for batch in guarded_batches(dataset, "a task of the store", prefetch_batches=0):
        yield from map(pickle.loads, batch["result"].to_pylist())


def _run_task(task: Task) -> TaskResult:
    """The result of a task.

    Raises:
        HbtError: by the task.
        StorageError: the disk is full or cannot be written.
        StoreError: an intermediate file cannot be read.
    """
    try:
        return task()
    except (OSError, pa.ArrowException) as error:
        if disk_error := storage_error(error):
            raise disk_error from error
        reason = " ".join(str(error).split())[:300]
        raise StoreError(
            f"an intermediate file of the store cannot be read ({reason}). All nodes must see the store's folder; the "
            "same command continues from what is done",
            code="UNREADABLE",
        ) from error


@dataclass(frozen=True, slots=True)
class TaskRunner:
    """Runs the stages of a job and keeps the results of their tasks."""

    store: Folder
    folder: Folder
    """Folder of the intermediate files and results, within the store's."""
    executor: Executor
    screen: Screen

    def run(self, stage: str, tasks: Mapping[str, Task]) -> list[TaskResult]:
        """The results of all tasks of a stage, in their order. Tasks that an earlier run has done are not repeated.

        Args:
            stage: description for the progress display.
            tasks: key of each task's result → task.
        """
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            loaded = dict(zip(tasks, pool.map(self.load_result, tasks), strict=True))
        results = {key: result for key, result in loaded.items() if result is not None}
        remaining: list[Task] = [
            _RecordedTask(self.store, self.folder, key, task) for key, task in tasks.items() if key not in results
        ]
        if results and remaining:
            self.screen.log(f"{stage}: {len(results):,} of {len(tasks):,} tasks were done before")
        with self.screen.progress(stage, len(tasks)) as advance:
            advance(len(results))
            for result in self.executor(remaining) if remaining else ():
                results[result["key"]] = result
                advance(1)
        return [results[key] for key in tasks]

    def load_result(self, key: str) -> TaskResult | None:
        """The result of a task of an earlier run; None if it or a file of the task is missing or damaged."""
        file = key + ".json"
        try:
            if not self.folder.exists(file):
                return None
            result = parse_checked_json(self.folder.read(file), join_location(self.folder.location, file))
            root = self.store.local
            if root is not None:  # An object store verifies its files itself.
                for path, sha256 in result["files"].items():
                    if file_sha256(root / path) != sha256:
                        raise DamagedFile(str(root / path), "its checksum does not match its content")
        except (OSError, DamagedFile) as error:
            logger.warning("%s; its task is repeated", error)
            return None
        return result


@dataclass(frozen=True, slots=True)
class _RecordedTask:
    """A task that writes its result, with the checksums of its files, into the work folder."""

    store: Folder
    folder: Folder
    key: str
    task: Task

    def __call__(self) -> TaskResult:
        with recording_checksums() as checksums:
            result = self.task()
        root = without_options(self.store.location).rstrip("/") + "/"
        files = {without_options(file).removeprefix(root): sha256 for file, sha256 in checksums.items()}
        result = {"key": self.key, **result, "files": files}
        self.folder.write(self.key + ".json", json.dumps(with_checksum(result)).encode())
        return result


def encode_json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON Lines in UTF-8. An unpaired surrogate, which UTF-8 cannot encode, becomes a JSON escape."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", errors="backslashreplace")
