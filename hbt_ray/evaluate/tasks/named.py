"""Tasks by name, as the command line gives them: `xquad-r=FOLDER`, `worldfacts`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbt_ray.data.sources.worldfacts import Worldfacts
from hbt_ray.errors import TaskError
from hbt_ray.evaluate.tasks.lareqa import read_lareqa
from hbt_ray.evaluate.tasks.parallel import parallel_task
from hbt_ray.evaluate.tasks.task import Task

LAREQA = ("xquad-r", "mlqa-r", "lareqa")
"""Folders of one `<language>.json` a language, in the format of LAReQA."""
WORLDFACTS = "worldfacts"


def open_task(spec: str, languages: Sequence[str] = ()) -> Task:
    """The task that `name=folder` or `name` stands for; `languages` keeps only these.

    Raises:
        TaskError: an unknown name, a folder that is missing where one is needed, or a malformed file.
    """
    name, _, place = spec.partition("=")
    if name == WORLDFACTS:
        split = place or "test"
        if split not in ("dev", "test"):
            raise TaskError(f"--task {spec}: worldfacts has the splits test and dev to judge on")
        settings = {"split": split, **({"languages": languages} if languages else {})}
        return parallel_task(name, Worldfacts.make(settings, f"--task {spec}").rows())
    if name not in LAREQA:
        raise TaskError(f"--task {spec}: no such task; known are {', '.join(LAREQA)} (=FOLDER) and {WORLDFACTS}")
    if not place:
        raise TaskError(f"--task {spec}: where is it? Write --task {name}=FOLDER with one <language>.json a language")
    return read_lareqa(Path(place), name, languages)
