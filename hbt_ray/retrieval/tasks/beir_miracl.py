"""The benchmarks BEIR and MIRACL as tasks; `hbt_ray.data.formats.beir_miracl` reads their files."""

from __future__ import annotations

from typing import Literal

from hbt_ray.config import Language
from hbt_ray.data.formats.beir_miracl import read_beir, read_miracl
from hbt_ray.data.formats.files import selected_languages
from hbt_ray.data.formats.qrels import Threshold
from hbt_ray.retrieval.tasks.build import qrels_task
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig, last_part
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.location import Location


class BeirTaskConfig(TaskConfig):
    """A BEIR folder, all of it in one language.

    A document is its title, a space and its text, as in BEIR's own code. The task is named like the folder, and
    `<folder>-<split>` for other splits than test.
    """

    kind: Literal["beir"]
    path: Location
    """Folder with `corpus.jsonl`, `queries.jsonl` and `qrels/`."""
    split: str = "test"
    """Judgements to read: `qrels/<split>.tsv`."""
    language: Language = "en"
    """Language of all queries and documents."""
    threshold: Threshold = None
    """Relevance from which a document is relevant, for judgements with fractions; all relevant documents then count the
    same. Default: relevance is a grade that nDCG weighs, and documents are relevant from 1 on."""
    ignore_identical_ids: bool = True
    """Leave a document out of the ranking of the query that has its id, as BEIR does: it is the query itself
    (ArguAna)."""
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")

    def open(self) -> Task:
        selected_languages(self.languages, [self.language], f"{self.path} (language={self.language})")
        name = self.name or last_part(self.path) + ("" if self.split == "test" else f"-{self.split}")
        collection = read_beir(self.path, self.split, self.language)
        return qrels_task(
            name,
            [collection],
            self.measures,
            threshold=self.threshold,
            ignore_identical_ids=self.ignore_identical_ids,
        )


class MiraclTaskConfig(TaskConfig):
    """MIRACL: 18 languages, each with queries and a corpus of its own.

    Its published figures are those of the monolingual setting: in the pool of all languages nobody judged the passages
    of the other languages. The default name says the split and whether the corpus is pooled.
    """

    kind: Literal["miracl"]
    path: Location
    """Folder of topics and qrels."""
    corpus: Location = ""
    """Folder that holds `miracl-corpus-v1.0-<language>`; default: that of the topics."""
    split: str = "dev"
    """Split of the topics and qrels."""
    threshold: Threshold = None
    """Relevance from which a passage is relevant, for judgements with fractions; see `BeirTaskConfig`."""
    pooled: bool = False
    """Search only the passages that were judged for some query of the split, relevant or not. In such a small corpus
    everything is easier to find, so the figures cannot be compared with those on the whole corpus."""
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")

    def open(self) -> Task:
        pooled, split = ["pooled"] if self.pooled else [], [] if self.split == "dev" else [self.split]
        name = self.name or "-".join([self.kind, *pooled, *split])
        collections = read_miracl(self.path, self.corpus or self.path, self.split, self.languages)
        return qrels_task(name, collections, self.measures, threshold=self.threshold, pooled=self.pooled)
