"""The benchmarks BEIR and MIRACL as tasks; `hbt_ray.data.formats.judged_collection` reads their files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import pyarrow as pa

from hbt_ray.config import Language
from hbt_ray.data.formats.files import by_language
from hbt_ray.data.formats.judged_collection import JudgedCollection, TextEntry, read_beir, read_miracl
from hbt_ray.data.formats.qrels import Threshold, whole_grades
from hbt_ray.data.formats.source_row import BadRow, BadRowError, unstorable_reason, without_bad_rows
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig, last_part
from hbt_ray.retrieval.tasks.task import DOCUMENTS, QRELS, QUERIES, Task, table_of
from hbt_ray.storage.location import Location

logger = logging.getLogger(__name__)


class BeirTaskConfig(TaskConfig):
    """A BEIR folder, whose texts all have one language.

    A document is its title, a space and its text, as in BEIR's own code. The default name is that of the folder, or
    `<folder>-<split>` for a split other than test.
    """

    kind: Literal["beir"]
    path: Location
    """Folder with `corpus.jsonl`, `queries.jsonl` and `qrels/`."""
    split: str = "test"
    """Judgements to read: `qrels/<split>.tsv`."""
    language: Language = "en"
    """Language of all queries and documents."""
    threshold: Threshold = None
    """Lowest relevance of a relevant document, for judgements with fractions; all relevant documents then have equal
    weight. Default: relevance is a grade, by which nDCG weighs documents, and 1 is the lowest."""
    ignore_identical_ids: bool = True
    """Leave a document out of the ranking of the query with the same id, as BEIR does, since it is the query itself
    (ArguAna)."""
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")
    """Measures to show instead of the default ones. Default: those under which it is published."""

    def open(self) -> Task:
        # Raises if `languages` leaves out the only language of the folder.
        by_language({self.language: None}, self.languages, f"{self.path} (language={self.language})")
        name = self.name or last_part(self.path) + ("" if self.split == "test" else f"-{self.split}")
        collections = [read_beir(self.path, self.split, self.language)]
        tables = _tables(name, collections, self.threshold, pooled=False)
        return Task(name, *tables, self.measures, self.ignore_identical_ids)


class MiraclTaskConfig(TaskConfig):
    """MIRACL: 18 languages, each with queries and a corpus of its own.

    The published figures are those of the monolingual setting: passages in other languages than the question's were not
    judged. The default name contains the split, unless it is dev, and whether the corpus is pooled.
    """

    kind: Literal["miracl"]
    path: Location
    """Folder that holds topics and qrels."""
    corpus: Location = ""
    """Folder that holds `miracl-corpus-v1.0-<language>`. Default: the folder of the topics."""
    split: str = "dev"
    """Split of the topics and qrels."""
    threshold: Threshold = None
    """Lowest relevance of a relevant passage, for judgements with fractions; see `BeirTaskConfig`."""
    pooled: bool = False
    """Search only the passages that were judged for some query of the split, relevant or not. A small corpus is easier,
    so the figures cannot be compared with those on the whole corpus."""
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")
    """Measures to show instead of the default ones. Default: those under which it is published."""

    def open(self) -> Task:
        pooled, split = ["pooled"] if self.pooled else [], [] if self.split == "dev" else [self.split]
        name = self.name or "-".join([self.kind, *pooled, *split])
        collections = read_miracl(self.path, self.corpus or self.path, self.split, self.languages)
        return Task(name, *_tables(name, collections, self.threshold, pooled=self.pooled), self.measures)


def _tables(
    name: str, collections: Sequence[JudgedCollection], threshold: float | None, *, pooled: bool
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Documents, judged queries and judgements of the collections.

    A corpus is read as a stream into Arrow memory, so that millions of passages are never Python objects at once.

    Args:
        pooled: keep only the documents that a judgement names, relevant or not.
    """
    parts = []
    for collection in collections:
        judgements = list(without_bad_rows(whole_grades(collection.judgements, threshold)))
        pool = {judgement.document_id for judgement in judgements} if pooled else None
        query_ids = {judgement.query_id for judgement in judgements}
        prefix = collection.prefix
        # Generators: `table_of` reads them below, one batch at a time.
        pairs = ((prefix + query_id, prefix + doc_id, int(grade)) for _, query_id, doc_id, grade in judgements)
        rows = (
            (_rows(collection, collection.documents, pool), DOCUMENTS),
            (_rows(collection, collection.queries, query_ids), QUERIES),
            (pairs, QRELS),
        )
        parts.append([table_of(table, schema, f"task {name}") for table, schema in rows])
        if pool and (num_lacking := len(pool) - len(parts[-1][0]["doc_id"].unique())):
            logger.warning(
                "task %s: %d of the %d judged documents in %s are not in its corpus",
                name, num_lacking, len(pool), collection.language,
            )  # fmt: skip
    documents, queries, qrels = (pa.concat_tables(tables) for tables in zip(*parts, strict=True))
    return documents, queries, qrels


def _rows(
    collection: JudgedCollection, entries: Iterable[TextEntry | BadRow], ids: Collection[str] | None
) -> Iterator[Sequence[str]]:
    """Id, language and text of the entries with the given ids; None selects all."""
    for entry in without_bad_rows(entries):
        if ids is None or entry.id in ids:
            if problem := unstorable_reason(entry.id) or unstorable_reason(entry.text):
                raise BadRowError(entry.where, f"holds {problem}")
            yield f"{collection.prefix}{entry.id}", collection.language, entry.text
