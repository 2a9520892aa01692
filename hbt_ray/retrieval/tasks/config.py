"""Configuration that all kinds of evaluation tasks share, in a suite or on the command line.

Each kind of task has a subclass beside the code that opens it; its `kind` identifies it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from hbt_ray.config import Config, Languages
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import parse_measure
from hbt_ray.retrieval.tasks.bitext_task import BitextTask
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.object_store import is_uri, without_options


def _measure(text: str) -> str:
    try:
        base, cutoff = parse_measure(text)
    except TaskError as error:
        raise ValueError(str(error)) from None  # the type that Pydantic reports as a wrong value
    return f"{base}@{cutoff}" if cutoff else base


Measure = Annotated[str, AfterValidator(_measure)]
"""Name of a measure as in `ir-measures`, such as `nDCG@10`, that needs only the ranks of the relevant documents.
Aliases become the plain name."""


class TaskConfig(Config):
    """Settings of every kind of task."""

    main_field: ClassVar[str] = "path"
    """Name of the field that the value in `--task kind=value` sets."""
    name: str = Field("", pattern=r"^[\w.-]*$")
    """Name of the task in results, and of the folder that holds them. Default: the kind, to which some kinds add the
    split or subset; `beir` uses the name of its folder."""
    languages: Languages = ()
    """Keep only these languages. Default: all."""

    @abstractmethod
    def open(self) -> Task | BitextTask:
        """Read the files of the task.

        Raises:
            TaskError, SourceError: a file is missing, malformed or contradicts another; the message names the place.
        """


def last_part(location: str) -> str:
    """The last part of a path: `/data/beir/scifact/` → `scifact`. `.` and `..` are resolved first."""
    path = without_options(location)
    return (path if is_uri(location) else os.path.abspath(path)).rstrip("/").rpartition("/")[2]
