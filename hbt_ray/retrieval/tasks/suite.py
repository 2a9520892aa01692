"""Tasks by name: as the command line gives them (`beir=FOLDER,split=dev`), and many at once in a suite."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.sources.worldfacts import WorldfactsSource
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.beir import BeirTaskConfig
from hbt_ray.retrieval.tasks.bitext_task import BitextTask
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig
from hbt_ray.retrieval.tasks.flores import FloresTaskConfig
from hbt_ray.retrieval.tasks.lareqa import LareqaTaskConfig
from hbt_ray.retrieval.tasks.mewslix import MewsliXTaskConfig
from hbt_ray.retrieval.tasks.miracl import MiraclTaskConfig
from hbt_ray.retrieval.tasks.parallel import parallel_task
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.retrieval.tasks.tatoeba import TatoebaTaskConfig


class WorldfactsTaskConfig(TaskConfig):
    """The embedded facts that training holds out."""

    place = "split"
    kind: Literal["worldfacts"]
    split: Literal["dev", "test"] = "test"
    measures: tuple[Measure, ...] = ()

    def open(self) -> Task:
        settings = {"split": self.split, **({"languages": self.languages} if self.languages else {})}
        rows = WorldfactsSource.make(settings, f"task {self.kind}").rows()
        return parallel_task(self.name or self.kind, rows, self.measures)


AnyTaskConfig = Annotated[
    LareqaTaskConfig
    | BeirTaskConfig
    | MiraclTaskConfig
    | MewsliXTaskConfig
    | TatoebaTaskConfig
    | FloresTaskConfig
    | WorldfactsTaskConfig,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[TaskConfig]] = {
    kind: config
    for config in get_args(get_args(AnyTaskConfig)[0])
    for kind in get_args(config.model_fields["kind"].annotation)
}
_LISTS = ("languages", "measures")


class Suite(Config):
    """Several tasks for one run of `hbt evaluate`."""

    tasks: tuple[AnyTaskConfig, ...] = Field(min_length=1)

    def within(self, languages: Sequence[str]) -> Suite:
        """The same in these languages alone; without any, as it is."""
        if not languages:
            return self
        kept = [{**spec.model_dump(exclude_unset=True), "languages": tuple(languages)} for spec in self.tasks]
        return Suite.make({"tasks": kept}, "--languages")

    def open(self) -> list[Task | BitextTask]:
        """Read all tasks.

        Raises:
            TaskError, SourceError: two tasks of one name, or see `TaskConfig.open`.
        """
        return distinct([spec.open() for spec in self.tasks])


def open_task(spec: str, languages: Sequence[str] = ()) -> Task | BitextTask:
    """The task that `kind`, `kind=place` or `kind=place,option=value,…` stands for; `languages` keeps only these.

    Options are the fields of the kind's spec; lists are written with commas: `beir=scifact,measures=nDCG@10,R@100`.

    Raises:
        TaskError, SourceError: an unknown kind, no place where one is needed, a missing or a malformed file.
        ConfigError: an unknown option, or a value that it does not take.
    """
    head, *options = re.split(r",(?=\w+=)", spec)
    kind, _, place = head.partition("=")
    if kind not in KINDS:
        raise TaskError(f"--task {spec}: no such task; known are {', '.join(KINDS)}")
    made = KINDS[kind]
    field = made.model_fields[made.place]
    if field.is_required() and not place:
        raise TaskError(f"--task {spec}: where is it? Write --task {kind}=FOLDER")
    values: dict[str, Any] = {"kind": kind, **({made.place: place} if place else {})}
    for key, _, text in (option.partition("=") for option in options):
        values[key] = text.split(",") if key in _LISTS else text
    if languages:
        values["languages"] = list(languages)
    return made.make(values, f"--task {spec}").open()


def distinct(tasks: Sequence[Task | BitextTask]) -> list[Task | BitextTask]:
    """The tasks, if each has a name of its own.

    Raises:
        TaskError: two have the same.
    """
    if twice := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise TaskError(
            f"{twice[0]!r} is the name of {sum(task.name == twice[0] for task in tasks)} tasks, so their results would "
            "overwrite one another; give each a name=… of its own"
        )
    return list(tasks)
