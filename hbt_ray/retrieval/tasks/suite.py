"""All kinds of evaluation tasks, given on the command line (`beir=FOLDER,split=dev`) or as a suite."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.sources.worldfacts import WorldfactsSource
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.beir_miracl import BeirTaskConfig, MiraclTaskConfig
from hbt_ray.retrieval.tasks.bitext_task import BitextTask
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig
from hbt_ray.retrieval.tasks.flores_tatoeba import FloresTaskConfig, TatoebaTaskConfig
from hbt_ray.retrieval.tasks.lareqa import LareqaTaskConfig
from hbt_ray.retrieval.tasks.mewslix import MewsliXTaskConfig
from hbt_ray.retrieval.tasks.task import Task, parallel_task


class WorldfactsTaskConfig(TaskConfig):
    """The facts of worldfacts that are not in its training split."""

    main_field = "split"
    kind: Literal["worldfacts"]
    split: Literal["dev", "test"] = "test"
    """Split of worldfacts."""
    measures: tuple[Measure, ...] = ()
    """Measures to compute beside the default ones, and to show instead of them. Default: none."""

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
# Each class in the union declares its kinds as a `Literal`.
KINDS: dict[str, type[TaskConfig]] = {
    kind: config
    for config in get_args(get_args(AnyTaskConfig)[0])
    for kind in get_args(config.model_fields["kind"].annotation)
}
_LIST_FIELDS = ("languages", "measures")


class Suite(Config):
    """Several tasks for one run of `hbt evaluate`."""

    tasks: tuple[AnyTaskConfig, ...] = Field(min_length=1)
    """Tasks to evaluate; results come in this order."""

    def with_languages(self, languages: Sequence[str]) -> Suite:
        """The suite with all tasks limited to these languages; unchanged if there are none."""
        if not languages:
            return self
        tasks = [{**config.model_dump(exclude_unset=True), "languages": tuple(languages)} for config in self.tasks]
        return Suite.make({"tasks": tasks}, "--languages")

    def open(self) -> list[Task | BitextTask]:
        """Read all tasks; see `TaskConfig.open`. Two tasks with one name are an error."""
        return distinct([config.open() for config in self.tasks])


def open_task(text: str, languages: Sequence[str] = ()) -> Task | BitextTask:
    """The task that `kind`, `kind=path` or `kind=path,option=value,…` describes.

    Options are the fields of the kind's configuration. Lists are written with commas:
    `beir=scifact,measures=nDCG@10,R@100`.

    Args:
        languages: keep only these; empty means all.

    Raises:
        TaskError, SourceError: an unknown kind, no path, or a missing or malformed file.
        ConfigError: an unknown option, or a wrong value of one.
    """
    # Only a comma before `key=` separates options, since lists hold commas too.
    head, *options = re.split(r",(?=\w+=)", text)
    kind, _, main_value = head.partition("=")
    if kind not in KINDS:
        raise TaskError(f"--task {text}: no such task; known are {', '.join(KINDS)}", code="UNKNOWN_TASK")
    config = KINDS[kind]
    if config.model_fields[config.main_field].is_required() and not main_value:
        raise TaskError(f"--task {text}: has no folder; write --task {kind}=FOLDER", code="NO_FOLDER")
    values: dict[str, Any] = {"kind": kind, **({config.main_field: main_value} if main_value else {})}
    for key, _, value in (option.partition("=") for option in options):
        values[key] = value.split(",") if key in _LIST_FIELDS else value
    if languages:
        values["languages"] = list(languages)
    return config.make(values, f"--task {text}").open()


def distinct(tasks: Sequence[Task | BitextTask]) -> list[Task | BitextTask]:
    """The tasks, unchanged. Raises TaskError if two have one name."""
    name, count = Counter(task.name for task in tasks).most_common(1)[0]
    if count > 1:
        raise TaskError(
            f"{name!r} is the name of {count} tasks, so their results would overwrite one another; give each a name=… "
            "of its own",
            code="TASK_NAME_TWICE",
        )
    return list(tasks)
