"""Work: a stage's tasks, each done once, in this process or as a Ray Data job.

A task leaves its result as a JSON file, written last, which names the files that the task wrote and their checksums. A
run that comes after a kill finds it and does not repeat the task, unless one of these files is missing or damaged. Two
attempts of one task (Ray may start a second) write the same bytes.
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
from hbt_ray.errors import DamagedFile, HbtError, StoreError
from hbt_ray.ray_errors import explain
from hbt_ray.storage import file_sha256, parse_checked_json, storage_error, with_checksum
from hbt_ray.storage.folder import Folder, recording_checksums
from hbt_ray.storage.location import join_location, without_options

logger = logging.getLogger(__name__)

TaskResult = dict[str, Any]
Task = Callable[[], TaskResult]
Executor = Callable[[list[Task]], Iterable[TaskResult]]
"""Does tasks, in any order and on any machine, and gives the result of each when it is there."""
_MAX_RETRIES = 3
"""Of a task whose process dies. Ray Data's default is to repeat it for ever."""
_THREADS = 4


def in_process(tasks: list[Task]) -> Iterator[TaskResult]:
    """One after the other, here: for small inputs, where starting a cluster would take longer."""
    for task in tasks:
        result = _attempt(task)
        if isinstance(result, HbtError):
            raise result
        yield result


def on_ray(tasks: list[Task]) -> Iterator[TaskResult]:
    """As a Ray Data job, a block a task, wherever the cluster has room; needs a Ray session."""
    import ray
    import ray.data

    reference = ray.put(tasks)  # Once, with the evaluation data that they may share.

    def do(numbers: dict[str, Any]) -> dict[str, list[bytes]]:
        chosen = ray.get(reference)
        return {"outcome": [pickle.dumps(_attempt(chosen[number])) for number in numbers["id"].tolist()]}

    dataset = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(
        do, batch_size=1, ray_remote_args_fn=lambda: {"max_retries": _MAX_RETRIES}
    )
    dataset.context.enable_progress_bars = False
    try:
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            for outcome in map(pickle.loads, batch["outcome"]):
                if isinstance(outcome, HbtError):
                    raise outcome
                yield outcome
    except ray.exceptions.RayError as error:
        raise explain(error, "a task of the store") from error


def _attempt(task: Task) -> TaskResult | HbtError:
    """Errors that are the user's are carried home; Ray would wrap them, and repeat in vain what raises them."""
    try:
        return task()
    except HbtError as error:
        return error
    except (OSError, pa.ArrowException) as error:
        if full := storage_error(error):
            return full
        reason = " ".join(str(error).split())[:300]
        return StoreError(
            f"a file of the store that is being made cannot be read ({reason}); all nodes must see its folder. The "
            "same command goes on from what is done",
            code="UNREADABLE",
        )


@dataclass(frozen=True, slots=True)
class TaskRunner:
    """Where a job's stages leave what they made."""

    store: Folder
    folder: Folder
    """Within the store's."""
    spread: Executor
    screen: Screen

    def stage(self, name: str, tasks: Mapping[str, Task]) -> list[TaskResult]:
        """The results of all tasks, in their order; those that an earlier run has left are not done again."""
        with ThreadPoolExecutor(_THREADS) as pool:
            left = dict(zip(tasks, pool.map(self.result, tasks), strict=True))
        done = {key: result for key, result in left.items() if result is not None}
        todo = [_Kept(self.store, self.folder, key, task) for key, task in tasks.items() if key not in done]
        if done and todo:
            self.screen.say(f"{name}: {len(done):,} of {len(tasks):,} tasks were done before")
        with self.screen.counting(name, len(tasks)) as advance:
            advance(len(done))
            for result in self.spread(list(todo)) if todo else ():
                done[result["key"]] = result
                advance(1)
        return [done[key] for key in tasks]

    def result(self, key: str) -> TaskResult | None:
        """What an earlier run has left of a task; None if it or a file of it is missing or damaged."""
        file = key + ".json"
        try:
            if not self.folder.exists(file):
                return None
            result = parse_checked_json(self.folder.read(file), join_location(self.folder.location, file))
            # An object store checks its files itself.
            root = self.store.local
            for path, sha256 in result["files"].items() if root else ():
                if file_sha256(root / path) != sha256:
                    raise DamagedFile(str(root / path), "its checksum does not match its content")
        except (OSError, DamagedFile) as error:
            logger.warning("%s; its task is done again", error)
            return None
        return result


@dataclass(frozen=True, slots=True)
class _Kept:
    """A task that leaves its result in the work folder."""

    store: Folder
    folder: Folder
    key: str
    task: Task

    def __call__(self) -> TaskResult:
        with recording_checksums() as files:
            result = self.task()
        root = without_options(self.store.location).rstrip("/") + "/"
        written = {without_options(file).removeprefix(root): sha256 for file, sha256 in files.items()}
        result = {"key": self.key, **result, "files": written}
        self.folder.write(self.key + ".json", json.dumps(with_checksum(result)).encode())
        return result


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON lines. Half a surrogate pair has no UTF-8; written as an escape it is what JSON asks for."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", errors="backslashreplace")
