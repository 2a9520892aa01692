"""TREC files: runs (`qid Q0 docid rank score tag`) and judgements (`qid 0 docid grade`), as trec_eval reads them.

Scores are written so that reading them gives the same float32 back; with ids as tie break, trec_eval then ranks the
documents exactly as we do.
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
    """Write the hits of each query, best first; `doc_ids` are those of the index. Ranks count from 1.

    Raises:
        TaskError: an id or the tag holds white space, which separates the fields, or counts do not match.
    """
    if len(query_ids) != len(hits.documents):
        raise TaskError(f"{path}: {len(query_ids)} query ids for the hits of {len(hits.documents)} queries")
    _check_words(path, (tag, *query_ids))
    _check_words(path, (doc_ids[row] for row in np.unique(hits.documents).tolist() if row >= 0))
    return _write(
        path,
        (
            f"{query_id} Q0 {doc_ids[row]} {rank} {score!s} {tag}\n"
            for query_id, rows, scores in zip(query_ids, hits.documents.tolist(), hits.scores, strict=True)
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
            if row >= 0
        ),
    )


def write_qrels(path: Path, task: Task) -> Path:
    """Write the relevant pairs of a task with their grades, those among them that the corpus lacks.

    Raises:
        TaskError: an id holds white space, which separates the fields.
    """
    columns = [task.qrels[name].to_pylist() for name in ("query_id", "doc_id", "relevance")]
    _check_words(path, {*columns[0], *columns[1]})
    return _write(path, (f"{query_id} 0 {doc_id} {grade}\n" for query_id, doc_id, grade in zip(*columns, strict=True)))


def _check_words(path: Path, words: Iterable[str]) -> None:
    for word in words:
        if word.split() != [word]:
            raise TaskError(
                f"{path}: {word!r} is empty or holds white space, which separates the fields of a TREC file"
            )


def _write(path: Path, lines: Iterable[str]) -> Path:
    """Under another name first: a run that was cut short must not look like a run."""
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    return path
