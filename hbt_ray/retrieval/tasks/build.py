"""Tasks built from what a format or a training source yields: judged collections, or parallel rows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from hbt_ray.data.formats.judged_collection import JudgedCollection, TextEntry
from hbt_ray.data.formats.qrels import whole_grades
from hbt_ray.data.formats.source_row import BadRow, BadRowError, SourceRow, unstorable_reason, without_bad_rows
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.task import DOCUMENTS, QRELS, QUERIES, Task, table_of

logger = logging.getLogger(__name__)


def qrels_task(
    name: str,
    collections: Sequence[JudgedCollection],
    measures: tuple[str, ...],
    *,
    threshold: float | None = None,
    pooled: bool = False,
    ignore_identical_ids: bool = True,
) -> Task:
    """The judged queries and all documents of some collections.

    A corpus is read as a stream into Arrow memory, so that millions of passages are never Python objects at once.

    Args:
        threshold: see `hbt_ray.data.formats.qrels.whole_grades`.
        pooled: keep only the documents that a judgement names, relevant or not.
        ignore_identical_ids: see `Task`.

    Raises:
        BadRowError: a malformed line, or a relevance that is a fraction without a threshold.
        TaskError: see `Task`.
    """
    documents, queries, qrels, origin = [], [], [], f"task {name}"
    for collection in collections:
        judgements = list(without_bad_rows(whole_grades(collection.judgements, threshold)))
        pool = {judgement.document_id for judgement in judgements} if pooled else None
        corpus = table_of(_table_rows(collection, collection.documents, pool), DOCUMENTS, origin)
        if pool and (num_lacking := len(pool) - len(corpus["doc_id"].unique())):
            logger.warning(
                "task %s: %d of the %d judged documents in %s are not in its corpus",
                name, num_lacking, len(pool), collection.language,
            )  # fmt: skip
        documents.append(corpus)
        query_ids = {judgement.query_id for judgement in judgements}
        queries.append(table_of(_table_rows(collection, collection.queries, query_ids), QUERIES, origin))
        prefix = collection.prefix
        pairs = ((prefix + query_id, prefix + doc_id, int(grade)) for _, query_id, doc_id, grade in judgements)
        qrels.append(table_of(pairs, QRELS, origin))
    tables = (pa.concat_tables(documents), pa.concat_tables(queries), pa.concat_tables(qrels))
    return Task(name, *tables, measures, ignore_identical_ids=ignore_identical_ids)


def _table_rows(
    collection: JudgedCollection, entries: Iterable[TextEntry | BadRow], ids: Collection[str] | None
) -> Iterator[Sequence[str]]:
    """Id, language and text of the entries with these ids, or of all."""
    for entry in without_bad_rows(entries):
        if ids is None or entry.id in ids:
            if problem := unstorable_reason(entry.id) or unstorable_reason(entry.text):
                raise BadRowError(entry.where, f"holds {problem}")
            yield f"{collection.prefix}{entry.id}", collection.language, entry.text


def parallel_task(name: str, rows: Iterable[SourceRow], measures: tuple[str, ...] = ()) -> Task:
    """A task from parallel items: every question in every language, answered by its passage in every language.

    Documents are the distinct passages (`<language>_<passage id>`), queries the questions (`<language>_<item id>`).
    A row without `passage_id` has a passage of its own, named by its item.

    Raises:
        TaskError: one passage id has two texts in one language, an item occurs twice in a language, or there are no
            rows.
    """
    documents: dict[str, tuple[str, str, str]] = {}
    doc_ids_of_passage: dict[str, list[str]] = defaultdict(list)  # one a language
    queries: list[tuple[str, str, str]] = []
    passage_of_query: list[str] = []
    for row in rows:
        passage_id = row.passage_id or row.item_id
        doc_id = f"{row.language}_{passage_id}"
        if doc_id not in documents:
            documents[doc_id] = (doc_id, row.language, row.passage)
            doc_ids_of_passage[passage_id].append(doc_id)
        elif documents[doc_id][2] != row.passage:
            raise TaskError(
                f"task {name}: passage {passage_id!r} has two texts in {row.language!r}, the second at "
                f"{row.where or row.item_id}, so it is unclear which one answers; give each text an id of its own",
                code="CONTRADICTION",
            )
        queries.append((f"{row.language}_{row.item_id}", row.language, row.question))
        passage_of_query.append(passage_id)
    qrels = [
        (query_id, doc_id)
        for (query_id, *_), passage_id in zip(queries, passage_of_query, strict=True)
        for doc_id in doc_ids_of_passage[passage_id]
    ]
    return Task.from_rows(name, documents.values(), queries, qrels, measures)
