"""TREC files: runs (`qid Q0 docid rank score tag`) and judgements (`qid 0 docid grade`), as trec_eval reads them.

A score is written such that reading it gives the same float32. trec_eval breaks ties by document id in the same way, so
its rankings equal ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.search.ranking import Hits
from hbt_ray.retrieval.tasks import Task
from hbt_ray.storage import atomic_file


def write_run(path: Path, query_ids: Sequence[str], doc_ids: Sequence[str], hits: Hits, tag: str = "hbt_ray") -> Path:
    """Write the hits of each query, best first; ranks count from 1.

    Args:
        doc_ids: ids of all documents of the index, in its order.

    Raises:
        TaskError: an id or the tag holds white space, which separates the fields, or counts do not match.
    """
    if len(query_ids) != len(hits.documents):
        raise TaskError(
            f"{path}: {len(query_ids)} query ids for the hits of {len(hits.documents)} queries", code="OTHER_QUERIES"
        )
    # Only ids that are written must be valid fields.
    rows_of_hits = np.unique(hits.documents[hits.documents >= 0]).tolist()
    _check_fields(path, (tag, *query_ids, *(doc_ids[row] for row in rows_of_hits)))
    # Scores stay NumPy float32: their `str` is the shortest text that reads back as the same number.
    lines = (
        f"{query_id} Q0 {doc_ids[row]} {rank} {score!s} {tag}\n"
        for query_id, rows, scores in zip(query_ids, hits.documents.tolist(), hits.scores, strict=True)
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
        if row >= 0
    )
    return _write(path, lines)


def write_qrels(path: Path, task: Task) -> Path:
    """Write the relevant pairs of a task with their grades, including documents that the corpus lacks.

    Raises:
        TaskError: an id holds white space, which separates the fields.
    """
    columns = [task.qrels[name].to_pylist() for name in ("query_id", "doc_id", "relevance")]
    _check_fields(path, {*columns[0], *columns[1]})
    lines = (f"{query_id} 0 {doc_id} {grade}\n" for query_id, doc_id, grade in zip(*columns, strict=True))
    return _write(path, lines)


def _check_fields(path: Path, fields: Iterable[str]) -> None:
    for value in fields:
        if value.split() != [value]:
            raise TaskError(
                f"{path}: {value!r} is empty or holds white space, which separates the fields of a TREC file",
                code="TREC_FIELD",
            )


def _write(path: Path, lines: Iterable[str]) -> Path:
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    return path
