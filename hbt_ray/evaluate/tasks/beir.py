"""BEIR folders (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`.

Either of the first two may be `.gz`. A document is its title, a space and its text, as in BEIR's own code.
"""

from __future__ import annotations

from typing import Literal

from hbt_ray.config import Language
from hbt_ray.data.sources.beir import judgements
from hbt_ray.data.sources.corpus import documents
from hbt_ray.data.sources.files import first_of
from hbt_ray.data.sources.records import jsonl
from hbt_ray.data.store.location import Location, child
from hbt_ray.evaluate.tasks.judged import Judged, judged_task
from hbt_ray.evaluate.tasks.spec import Measure, TaskSpec, chosen, last_part
from hbt_ray.evaluate.tasks.task import Task


class BeirTask(TaskSpec):
    """A BEIR folder; all of it in one language. Its name is that of the folder, and of the split if it is not test."""

    kind: Literal["beir"]
    path: Location
    split: str = "test"
    """Which judgements: `qrels/<split>.tsv`."""
    language: Language = "en"
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")

    def open(self) -> Task:
        chosen(self.languages, [self.language], f"{self.path} (language={self.language})")
        part = Judged(
            self.language,
            documents(jsonl(first_of(self.path, "corpus.jsonl", "corpus.jsonl.gz")), "_id"),
            documents(jsonl(first_of(self.path, "queries.jsonl", "queries.jsonl.gz")), "_id"),
            judgements(child(self.path, f"qrels/{self.split}.tsv")),
        )
        own = last_part(self.path) + ("" if self.split == "test" else f"-{self.split}")
        return judged_task(self.name or own, [part], self.measures)
