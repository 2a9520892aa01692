"""Failures: questions whose first document does not answer them, with the texts for people to read.

They are kept beside the result, cut to a length for reading, so that a report needs neither task nor index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.retrieval.result import MULTILINGUAL
from hbt_ray.retrieval.search.ranking import Ranking, places_without
from hbt_ray.retrieval.tasks import Task

PER_LANGUAGE = 50
MOST = 2000
"""Of all languages together."""
CHARACTERS = 500
"""Of a text."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("query_id", "language", "question")),
        ("AP", pa.float64()),
        *((name, pa.string()) for name in ("gold_id", "gold_language", "gold")),
        ("gold_rank", pa.int64()),
        *((name, pa.string()) for name in ("first_id", "first_language", "first")),
    ]
)


def failures(
    task: Task,
    per_query: pa.Table,
    queries: npt.NDArray[Any],
    index: Ranking,
    first: npt.NDArray[np.int64],
) -> pa.Table:
    """The failures with the lowest AP in the pool, at most `PER_LANGUAGE` of each question language, worst first.

    Args:
        per_query: the table of `judge`.
        queries: the task's, as the index takes them.
        first: [queries] the row of the first document in the pool, see `first_documents`; -1 where nothing was found.

    Returns:
        Columns of `SCHEMA`. The gold is the relevant document with the best rank in the pool; AP is that of the pool.
    """
    precision = per_query.filter(pc.equal(per_query["setting"], MULTILINGUAL))["AP"].to_numpy()
    # Without a right document in the corpus there is no text to show beside the wrong one.
    wrong = (first >= 0) & (task.relevant != first[:, None]).all(axis=1) & (task.relevant >= 0).any(axis=1)
    rows = _worst(precision, np.asarray(task.queries["language"].to_pylist()), wrong)
    relevant = task.relevant[rows]
    languages = np.asarray(task.documents["language"].to_pylist())
    places = places_without(index, queries[rows], relevant, task.own_documents[rows], languages).pool
    ranks = np.where(places > 0, places, np.iinfo(np.int64).max)
    best = ranks.argmin(axis=1)[:, None]
    asked = task.queries.take(pa.array(rows))
    gold, shown = (
        task.documents.take(pa.array(found)) for found in (np.take_along_axis(relevant, best, 1)[:, 0], first[rows])
    )
    columns = [
        *(asked["query_id"], asked["language"], _cut(asked["text"])),
        pa.array(precision[rows]),
        *(gold["doc_id"], gold["language"], _cut(gold["text"])),
        pa.array(np.take_along_axis(ranks, best, 1)[:, 0]),
        *(shown["doc_id"], shown["language"], _cut(shown["text"])),
    ]
    return pa.table(columns, schema=SCHEMA)


def _worst(
    precision: npt.NDArray[np.float64], asked: npt.NDArray[np.str_], wrong: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Rows of queries, by precision, with no language above its share."""
    names = np.unique(asked)
    share = min(PER_LANGUAGE, MOST // len(names))
    order = np.argsort(precision, kind="stable")
    order = order[wrong[order]]
    kept = np.concatenate([order[asked[order] == name][:share] for name in names])
    return np.asarray(kept[np.argsort(precision[kept], kind="stable")], dtype=np.int64)


def _cut(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    long = pc.greater(pc.utf8_length(texts), CHARACTERS)
    cut = pc.binary_join_element_wise(pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(texts, 0, CHARACTERS)), "…", "")
    return pc.if_else(long, cut, texts)
