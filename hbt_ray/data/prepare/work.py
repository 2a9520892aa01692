"""Work: a stage's tasks, each done once, in this process or as a Ray Data job.

A task leaves its result as a JSON file, written last. A run that comes after a kill finds it and does not repeat the
task, and two attempts of one task (Ray may start a second) write the same bytes.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hbt_ray.console import Screen
from hbt_ray.data.store.folder import Folder
from hbt_ray.errors import HbtError

Result = dict[str, Any]
Task = Callable[[], Result]
Spread = Callable[[list[Task]], Iterable[Result]]
"""Does tasks, in any order and on any machine, and gives the result of each when it is there."""


def in_process(tasks: list[Task]) -> Iterator[Result]:
    """One after the other, here: for small inputs, where starting a cluster would take longer."""
    for task in tasks:
        yield task()


def on_ray(tasks: list[Task]) -> Iterator[Result]:
    """As a Ray Data job, a block a task, wherever the cluster has room; needs a Ray session."""
    import ray
    import ray.data

    reference = ray.put(tasks)  # Once, with the evaluation data that they may share.

    def do(numbers: dict[str, Any]) -> dict[str, list[bytes]]:
        chosen = ray.get(reference)
        return {"outcome": [pickle.dumps(_attempt(chosen[number])) for number in numbers["id"].tolist()]}

    dataset = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(do, batch_size=1)
    dataset.context.enable_progress_bars = False
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
        for outcome in map(pickle.loads, batch["outcome"]):
            if isinstance(outcome, HbtError):
                raise outcome
            yield outcome


def _attempt(task: Task) -> Result | HbtError:
    """Errors that are the user's are carried home; Ray would wrap them, and repeat in vain what raises them."""
    try:
        return task()
    except HbtError as error:
        return error


@dataclass(frozen=True, slots=True)
class Work:
    """Where a job's stages leave what they made."""

    folder: Folder
    spread: Spread
    screen: Screen

    def stage(self, name: str, tasks: Mapping[str, Task]) -> list[Result]:
        """The results of all tasks, in their order; those that an earlier run has left are not done again."""
        done = {key: json.loads(self.folder.read(key + ".json")) for key in tasks if self.folder.exists(key + ".json")}
        todo = [_Kept(self.folder, key, task) for key, task in tasks.items() if key not in done]
        if done and todo:
            self.screen.say(f"{name}: {len(done):,} of {len(tasks):,} tasks were done before")
        with self.screen.counting(name, len(tasks)) as advance:
            advance(len(done))
            for result in self.spread(list(todo)) if todo else ():
                done[result["key"]] = result
                advance(1)
        return [done[key] for key in tasks]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A task that leaves its result in the work folder."""

    folder: Folder
    key: str
    task: Task

    def __call__(self) -> Result:
        result = {"key": self.key, **self.task()}
        self.folder.write(self.key + ".json", json.dumps(result).encode())
        return result


def lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON lines. Half a surrogate pair has no UTF-8; written as an escape it is what JSON asks for."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", errors="backslashreplace")
