"""A task from parallel items: every question in every language, answered by its passage in every language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.task import Task


def parallel_task(name: str, rows: Iterable[SourceRow], measures: tuple[str, ...] = ()) -> Task:
    """Documents are the distinct passages (`<language>_<passage id>`), queries the questions (`<language>_<item id>`).

    A row without `passage_id` has a passage of its own, named by its item.

    Raises:
        TaskError: one passage id has two texts in one language, an item occurs twice in a language, or nothing is left.
    """
    documents: dict[str, tuple[str, str, str]] = {}
    versions: dict[str, list[str]] = defaultdict(list)  # passage id → its document ids, one a language
    queries: list[tuple[str, str, str]] = []
    asked: list[str] = []  # the passage id that answers each query
    for row in rows:
        passage_id = row.passage_id or row.item_id
        doc_id = f"{row.language}_{passage_id}"
        if doc_id not in documents:
            documents[doc_id] = (doc_id, row.language, row.passage)
            versions[passage_id].append(doc_id)
        elif documents[doc_id][2] != row.passage:
            raise TaskError(
                f"task {name}: passage {passage_id!r} has two texts in {row.language!r}, the second at "
                f"{row.where or row.item_id}, so it is unclear which one answers; give each text an id of its own"
            )
        queries.append((f"{row.language}_{row.item_id}", row.language, row.question))
        asked.append(passage_id)
    qrels = [
        (query[0], doc_id) for query, passage_id in zip(queries, asked, strict=True) for doc_id in versions[passage_id]
    ]
    return Task.from_rows(name, documents.values(), queries, qrels, measures)
