"""FLORES-200 (NLLB Team 2022, arXiv 2207.04672) and its like: the same sentences in many languages.

Published as one file of lines a language, `devtest/eng_Latn.devtest`; here also as one Parquet table with the columns
lang, n, sentence. The script in a code is dropped where it is the language's default: `zho_Hans` is `zh`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import model_validator

from hbt_ray.config import Language
from hbt_ray.data.formats.files import files_of
from hbt_ray.data.formats.records import records
from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.bitext_task import BitextTask, lines_of, multiway
from hbt_ray.retrieval.tasks.config import TaskConfig, chosen
from hbt_ray.retrieval.tasks.parallel import parallel_task
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.retrieval.tasks.validation import by_tag, sound
from hbt_ray.storage.location import Location, join_location, without_options

MAX_LANGUAGES = 100
"""Of one task without a pivot: the pairs grow with the square, and each has a row a sentence in the results."""


class FloresTaskConfig(TaskConfig):
    """Parallel sentences: `search: pairs` judges every two languages by themselves, `search: pool` one pool of all.

    In the pool a sentence and all its translations are the answers to each of them; it measures the language bias.
    """

    kind: Literal["flores"]
    path: Location
    """The folder that holds `<split>/<code>.<split>`, or a Parquet table of one split."""
    split: Literal["dev", "devtest"] = "devtest"
    """Which files of the folder."""
    search: Literal["pairs", "pool"] = "pairs"
    pivot: Language | None = None
    """Of pairs: only those with this language."""

    @model_validator(mode="after")
    def _pivot_of_pairs(self) -> FloresTaskConfig:
        if self.pivot and self.search == "pool":
            raise ValueError("pivot is for search=pairs; a pool has all languages on both sides")
        return self

    def open(self) -> Task | BitextTask:
        is_table = without_options(self.path).endswith(".parquet")
        sides = _from_table(self.path) if is_table else _from_folder(self.path, self.split)
        wanted = {*self.languages, self.pivot} if self.languages and self.pivot else self.languages
        tags = chosen([tag for tag in wanted if tag], sides, self.path)
        if self.pivot and self.pivot not in tags:
            raise TaskError(f"{self.path}: has no sentences in the pivot {self.pivot!r}")
        if not self.pivot and len(tags) > MAX_LANGUAGES:
            raise TaskError(f"{self.path}: {len(tags)} languages are too many for every two of them; name at most "
                            f"{MAX_LANGUAGES} with languages=, or a pivot")  # fmt: skip
        own = self.name or (self.kind if self.search == "pairs" else f"{self.kind}-pool")
        if self.search == "pairs":
            return multiway(own, {tag: sides[tag] for tag in tags}, self.pivot)
        rows = (SourceRow(str(n), tag, text, text, str(n)) for tag in tags for n, text in enumerate(sides[tag]))
        return parallel_task(own, rows)


def _from_table(path: str) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for record in sound(records(path, {"lang", "n", "sentence"})):
        match record.values:
            case {"lang": str(code), "n": int(number), "sentence": str(text)}:
                found[code].append((number, text))
            case _:
                raise TaskError(f"{record.where}: lang and sentence must be text and n a number")
    ordered = {code: sorted(rows) for code, rows in found.items()}
    first, numbers = "", list[int]()
    for code, rows in ordered.items():
        own = [number for number, _ in rows]
        if first and own != numbers:  # Otherwise row by row other sentences would pass for translations.
            raise TaskError(f"{path}: {code} has other numbers n than {first}, so it is unclear what translates what")
        first, numbers = code, own
    return {tag: [text for _, text in ordered[code]] for tag, code in by_tag(ordered, path).items()}


def _from_folder(folder: str, split: str) -> Mapping[str, Sequence[str]]:
    files = files_of(join_location(folder, split), lambda name: name.endswith(f".{split}"))
    file_of = {file.rpartition("/")[2].removesuffix(f".{split}"): file for file in files}
    return {tag: lines_of(file_of[code]) for tag, code in by_tag(file_of, folder).items()}
