"""The spec: what a configuration or the command line says of a task, before its files are read.

Every format has a spec of its own beside its reader, told apart by `kind`; here is what they share.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from hbt_ray.config import Config, Languages
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import parse_measure
from hbt_ray.retrieval.tasks.bitext_task import BitextTask
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.location import is_uri, without_options


def _measure(text: str) -> str:
    try:
        base, cutoff = parse_measure(text)
    except TaskError as error:
        raise ValueError(str(error)) from None
    return f"{base}@{cutoff}" if cutoff else base


Measure = Annotated[str, AfterValidator(_measure)]
"""An `ir-measures` name that ranks of relevant documents give, such as `nDCG@10`; aliases become the plain name."""


class TaskConfig(Config):
    """What every kind of task can be told."""

    place: ClassVar[str] = "path"
    """The field that `--task kind=…` sets."""
    name: str = Field("", pattern=r"^[\w.-]*$")
    """What results call the task, and their folder; default: the kind, or what the kind says."""
    languages: Languages = ()
    """Keep only these; default: all that there are."""

    @abstractmethod
    def open(self) -> Task | BitextTask:
        """Read the files.

        Raises:
            TaskError, SourceError: a file is missing, malformed, or contradicts another; the message says where.
        """


def chosen(wanted: Collection[str], found: Collection[str], where: str) -> list[str]:
    """The wanted of the languages that are there, or all; sorted.

    Raises:
        TaskError: one is not there.
    """
    if missing := sorted(set(wanted) - set(found)):
        raise TaskError(
            f"{where}: nothing is in {missing[0]!r}; its languages are {', '.join(sorted(found)) or 'none'}"
        )
    return sorted(wanted or found)


def last_part(location: str) -> str:
    """`/data/beir/scifact/` → `scifact`; of `.` and `..` the folder that they stand for."""
    path = without_options(location)
    return (path if is_uri(location) else os.path.abspath(path)).rstrip("/").rpartition("/")[2]
