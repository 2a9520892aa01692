"""BEIR folders (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`.

For forms and packings of the files see `hbt_ray.data.sources.beir`. A document is its title, a space and its text, as
in BEIR's own code.
"""

from __future__ import annotations

from typing import Literal

from hbt_ray.config import Language
from hbt_ray.data.formats.corpus import documents
from hbt_ray.data.formats.qrels import Threshold, judgements
from hbt_ray.data.formats.records import jsonl
from hbt_ray.data.sources.beir import beir_files
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig, chosen, last_part
from hbt_ray.retrieval.tasks.qrels_task import Judged, judged_task
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.location import Location


class BeirTaskConfig(TaskConfig):
    """A BEIR folder; all of it in one language. Its name is that of the folder, and of the split if it is not test."""

    kind: Literal["beir"]
    path: Location
    split: str = "test"
    """Which judgements: `qrels/<split>.tsv`."""
    language: Language = "en"
    threshold: Threshold = None
    """Relevance from which a document is right, for judgements with fractions; all right ones count the same then.
    Default: relevance is a grade, right from 1 on, which nDCG weighs."""
    ignore_identical_ids: bool = True
    """Leave a document out of the ranking of the query that has its id, as BEIR does: the query itself (ArguAna)."""
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")

    def open(self) -> Task:
        chosen(self.languages, [self.language], f"{self.path} (language={self.language})")
        files = beir_files(self.path, self.split)
        part = Judged(
            self.language,
            documents(jsonl(files.corpus)),
            documents(jsonl(files.queries)),
            judgements(files.judgements),
        )
        own = last_part(self.path) + ("" if self.split == "test" else f"-{self.split}")
        return judged_task(
            self.name or own,
            [part],
            self.measures,
            threshold=self.threshold,
            ignore_identical_ids=self.ignore_identical_ids,
        )
