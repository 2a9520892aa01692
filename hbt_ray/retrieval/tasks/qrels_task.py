"""Tasks from judgements: a corpus, questions, and who answers what, as BEIR, MIRACL and TREC publish them.

A corpus is read as a stream into Arrow memory, so that millions of passages are never Python objects at once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from hbt_ray.data.formats.corpus import Entry
from hbt_ray.data.formats.qrels import Judgement, graded
from hbt_ray.data.formats.source_row import BadRow, unstorable_reason
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.task import DOCUMENTS, QRELS, QUERIES, Task, table_of
from hbt_ray.retrieval.tasks.validation import sound

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """What is published for one language; each stream is read once."""

    language: str
    documents: Iterable[Entry | BadRow]
    queries: Iterable[Entry | BadRow]
    judgements: Iterable[Judgement | BadRow]
    prefix: str = ""
    """Before every id, where the ids of several languages would clash."""


def judged_task(
    name: str,
    parts: Sequence[Judged],
    measures: tuple[str, ...],
    *,
    threshold: float | None = None,
    pooled: bool = False,
    ignore_identical_ids: bool = True,
) -> Task:
    """The queries that are judged, and all documents.

    Args:
        threshold: see `graded`.
        pooled: only the documents that some judgement names, right or wrong.
        ignore_identical_ids: see `Task`.

    Raises:
        TaskError: a malformed line, a relevance that is a fraction without a threshold, or see `Task`.
    """
    documents, queries, qrels, origin = [], [], [], f"task {name}"
    for part in parts:
        judgements = list(sound(graded(part.judgements, threshold)))
        pool = {one.document_id for one in judgements} if pooled else None
        corpus = table_of(_rows(part, part.documents, pool), DOCUMENTS, origin)
        if pool and (num_lacking := len(pool) - len(corpus["doc_id"].unique())):
            logger.warning(
                "task %s: %d of the %d judged documents in %s are not in its corpus",
                name, num_lacking, len(pool), part.language,
            )  # fmt: skip
        documents.append(corpus)
        judged_ids = {one.question_id for one in judgements}
        queries.append(table_of(_rows(part, part.queries, judged_ids), QUERIES, origin))
        rows = (
            (part.prefix + one.question_id, part.prefix + one.document_id, int(one.relevance)) for one in judgements
        )
        qrels.append(table_of(rows, QRELS, origin))
    tables = (pa.concat_tables(documents), pa.concat_tables(queries), pa.concat_tables(qrels))
    return Task(name, *tables, measures, ignore_identical_ids=ignore_identical_ids)


def _rows(part: Judged, entries: Iterable[Entry | BadRow], wanted: Collection[str] | None) -> Iterator[Sequence[str]]:
    for entry in sound(entries):
        if wanted is None or entry.id in wanted:
            if problem := unstorable_reason(entry.id) or unstorable_reason(entry.text):
                raise TaskError(f"{entry.where}: holds {problem}; repair or remove the line", code="BAD_ROW")
            yield f"{part.prefix}{entry.id}", part.language, entry.text
