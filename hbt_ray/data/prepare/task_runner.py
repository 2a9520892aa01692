"""Run each task of a stage once, in this process or as a Ray Data job, with results in the store's work folder.

The result of a task is a JSON file, written last, with the names and checksums of the files that the task wrote. If it
exists, a later run does not repeat the task, unless one of these files is missing or damaged. Two attempts of one task
(Ray may start a second one) write the same bytes.

`STORE/.prepare` is the work folder, with all results and intermediate files. A marker file in it says that `hbt
prepare` created it; a folder without the marker, or any other file of the user, is never changed or deleted.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from hbt_ray.console import Screen
from hbt_ray.errors import DamagedFile, StoreError
from hbt_ray.ray_errors import failure, guarded_batches
from hbt_ray.storage import (
    atomic_folder,
    exclusive_lock,
    file_sha256,
    parse_checked_json,
    remove_tree,
    storage_error,
    with_checksum,
)
from hbt_ray.storage.location import Folder, join_location, recording_checksums
from hbt_ray.storage.object_store import without_options

logger = logging.getLogger(__name__)

TaskResult = dict[str, Any]
Task = Callable[[], TaskResult]
Executor = Callable[[list[Task]], Iterable[TaskResult]]
"""Runs tasks in any order and on any machine, and yields the result of each when it is done."""
_MAX_RETRIES = 3
"""Number of retries of a task whose process dies. Ray Data's default is to retry for ever."""
_NUM_THREADS = 4
"""Threads that look for results of an earlier run."""
WORK_FOLDER = ".prepare"
"""Name of the work folder within the store's folder."""
READ_FOLDER = "read"
"""Subfolder with the results of reading the sources; runs with different settings share it."""
_MARKER = "about.txt"
_MARKER_TEXT = b"Intermediate files of `hbt prepare`, which deletes this folder when the store is complete.\n"


def in_process(tasks: list[Task]) -> Iterator[TaskResult]:
    """Run the tasks one after the other in this process, for small inputs, where starting Ray would take longer."""
    return map(_run_task, tasks)


def on_ray(tasks: list[Task]) -> Iterator[TaskResult]:
    """Run the tasks as a Ray Data job with one block per task. Needs a Ray session."""
    import ray
    import ray.data

    reference = ray.put(tasks)  # Once, because the tasks may share the evaluation data.

    def run_batch(batch: dict[str, Any]) -> pa.Table:
        shared_tasks = ray.get(reference)
        try:
            # Pickled: results are nested dicts, whose Arrow types would differ between tasks.
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
    """Run a task. Raises `StorageError` if the disk is full, `StoreError` if a file cannot be read."""
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
    """Work folder with the intermediate files and results, within the store's folder."""
    executor: Executor
    screen: Screen

    def run(self, stage: str, tasks: Mapping[str, Task]) -> list[TaskResult]:
        """The results of all tasks of a stage, in their order. Tasks that an earlier run completed are not repeated.

        Args:
            stage: description for the progress display.
            tasks: key of each task's result → task.
        """
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            # Threads: hashing the files releases the interpreter lock, and storage is slow.
            loaded = dict(zip(tasks, pool.map(self.load_result, tasks), strict=True))
        results = {key: result for key, result in loaded.items() if result is not None}
        remaining: list[Task] = [
            partial(_run_recorded, self.store, self.folder, key, task)
            for key, task in tasks.items()
            if key not in results
        ]
        if results and remaining:
            self.screen.log(f"{stage}: {len(results):,} of {len(tasks):,} tasks were done before")
        with self.screen.progress(stage, len(tasks)) as advance:
            advance(len(results))
            # Results come in any order, so they are matched by their key.
            for result in self.executor(remaining) if remaining else ():
                results[result["key"]] = result
                advance(1)
        return [results[key] for key in tasks]

    def remove_stale_shards(self, fingerprint: str, shards: set[str]) -> None:
        """Delete shards of earlier, incomplete runs with other settings, as listed in the results of their tasks.

        Args:
            fingerprint: subfolder of the current run.
            shards: shards of the current run, which stay.
        """
        for other in set(self.folder.names()) - {fingerprint, READ_FOLDER, _MARKER}:
            for dataset in (self.folder / other / "write").names():
                for name in (self.folder / other / "write" / dataset).names():
                    result = self.load_result(f"{other}/write/{dataset}/{name.removesuffix('.json')}")
                    if result and result["file"] not in shards:
                        _remove_shard(self.store, result["file"], result["sha256"])

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


def _run_recorded(store: Folder, folder: Folder, key: str, task: Task) -> TaskResult:
    """Run a task and write its result, with the checksums of its files, into the work folder."""
    with recording_checksums() as checksums:
        result = task()
    # Paths relative to the store, so that the results stay valid if the store is moved.
    root = without_options(store.location).rstrip("/") + "/"
    files = {without_options(file).removeprefix(root): sha256 for file, sha256 in checksums.items()}
    result = {"key": key, **result, "files": files}
    folder.write(key + ".json", json.dumps(with_checksum(result)).encode())
    return result


@contextmanager
def open_work_folder(store: Folder) -> Iterator[Folder]:
    """Create and lock the work folder of a store. It remains after the block unless it is empty.

    An object store has no locks; two commands that prepare the same store there write the same bytes.

    Raises:
        StoreError: something else exists at the location of the store or of its work folder.
        LockedError: another command prepares this store.
    """
    work, path = store / WORK_FOLDER, store.local
    if path is None:
        _check_is_ours(store)
        work.write(_MARKER, _MARKER_TEXT)
        yield work
        return
    if os.path.lexists(path) and not path.is_dir():
        raise StoreError(f"{path}: exists but is not a folder. Choose another path", code="NOT_A_STORE")
    is_new = not path.exists()
    try:
        with exclusive_lock(path / WORK_FOLDER, "hbt prepare"):
            _check_is_ours(store)
            if not is_work_folder(work):
                with atomic_folder(path / WORK_FOLDER) as scratch:
                    (scratch / _MARKER).write_bytes(_MARKER_TEXT)
            try:
                yield work
            finally:
                if work.names() == [_MARKER]:  # Nothing was done that another run could use.
                    work.remove()
    finally:
        if is_new:
            with suppress(OSError):  # The new folder is not empty.
                path.rmdir()


def is_work_folder(work: Folder) -> bool:
    """Whether `hbt prepare` created this folder. A symbolic link never counts."""
    path = work.local
    return not (path and path.is_symlink()) and work.exists(_MARKER) and work.read(_MARKER) == _MARKER_TEXT


def _check_is_ours(store: Folder) -> None:
    """Refuse a folder with files that `hbt prepare` did not write. Hidden files do not count."""
    work, names = store / WORK_FOLDER, store.names()
    path = work.local
    is_folder = path is None or (path.is_dir() and not path.is_symlink())
    if WORK_FOLDER in names and not is_work_folder(work) and (not is_folder or work.names()):
        raise StoreError(
            f"{work}: exists but was not created by `hbt prepare`; nothing was changed. Choose another path",
            code="NOT_A_STORE",
        )
    if WORK_FOLDER not in names and any(not name.startswith(".") for name in names):
        raise StoreError(
            f"{store}: exists but is not a store; nothing was changed. Choose another path", code="NOT_A_STORE"
        )


def check_dataset_folders(store: Folder, datasets: Sequence[str]) -> None:
    """Refuse to write shards through symbolic links or in place of files."""
    for path in (store.local / name for name in datasets if store.local):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise StoreError(
                f"{path}: a link or a file exists where a folder of shards is to be written; nothing was changed. "
                "Remove it, or choose another path",
                code="NOT_A_STORE",
            )


def _remove_shard(store: Folder, file: str, sha256: str) -> None:
    root = store.local
    if root is None:
        (store / file).remove()
    # Delete only what a run of `hbt prepare` wrote: same bytes, and not behind a link.
    elif not (root / file).parent.is_symlink() and file_sha256(root / file) == sha256:
        remove_tree(root / file)
        with suppress(OSError):  # The folder contains other files.
            (root / file).parent.rmdir()
