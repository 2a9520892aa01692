"""Tasks from judgements: a corpus, questions, and who answers what, as BEIR, MIRACL and TREC publish them.

A corpus is read as a stream into Arrow memory, so that millions of passages are never Python objects at once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from hbt_ray.data.sources.corpus import Entry
from hbt_ray.data.sources.judgements import Judgement
from hbt_ray.data.sources.rows import BadRow
from hbt_ray.evaluate.tasks.sound import sound
from hbt_ray.evaluate.tasks.task import DOCUMENTS, QRELS, QUERIES, Task, table_of

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


def judged_task(name: str, parts: Sequence[Judged], measures: tuple[str, ...], *, pooled: bool = False) -> Task:
    """The queries that are judged, and all documents; `pooled`: only those that some judgement names, right or wrong.

    Raises:
        TaskError: a malformed line, or see `Task`.
    """
    documents, queries, qrels = [], [], []
    for part in parts:
        judgements = list(sound(part.judgements))
        _warn_of_grades(name, part.language, judgements)
        pool = {one.document_id for one in judgements} if pooled else None
        found = table_of(_rows(part, part.documents, pool), DOCUMENTS)
        if pool and found.num_rows < len(pool):
            logger.warning(
                "task %s: %d of the %d judged documents in %s are not in its corpus and are left out",
                name, len(pool) - found.num_rows, len(pool), part.language,
            )  # fmt: skip
        documents.append(found)
        asked = {one.question_id for one in judgements}
        queries.append(table_of(_rows(part, part.queries, asked), QUERIES))
        qrels += [
            (f"{part.prefix}{one.question_id}", f"{part.prefix}{one.document_id}") for one in judgements if one.relevant
        ]
    return Task(name, pa.concat_tables(documents), pa.concat_tables(queries), table_of(qrels, QRELS), measures)


def _warn_of_grades(name: str, language: str, judgements: Sequence[Judgement]) -> None:
    graded = sum(one.relevance > 1 for one in judgements)
    if graded:
        logger.warning(
            "task %s: %d of %d judgements in %s have a grade above 1; here a document is relevant or is not, so nDCG "
            "differs from the graded one",
            name, graded, len(judgements), language,
        )  # fmt: skip


def _rows(part: Judged, entries: Iterable[Entry | BadRow], wanted: Collection[str] | None) -> Iterator[Sequence[str]]:
    for entry in sound(entries):
        if wanted is None or entry.id in wanted:
            yield f"{part.prefix}{entry.id}", part.language, entry.text
