"""Bitext retrieval: does a sentence find its translation, by the nearest neighbour and by the ratio margin?

The margin (Artetxe and Schwenk 2019, arXiv 1811.01136, equations 2 and 4) divides the cosine of two sentences by the
mean cosine of each with its k nearest neighbours on the other side, so that a sentence which is near to everything
is nobody's translation. Similarities are computed in blocks, never as a whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.result import CROSS_LINGUAL
from hbt_ray.retrieval.scoring.scorecard import Scorecard
from hbt_ray.retrieval.search.exact_scores import Floats, Integers, checked_vectors
from hbt_ray.retrieval.significance import of_task
from hbt_ray.retrieval.tasks import BitextTask

NEAREST, MARGIN = BitextTask.measures
_BLOCK = 1 << 22  # similarities at a time: 16 MiB
_LEAST = 1e-6

Hits = npt.NDArray[np.bool_]


class NearestNeighbours(NamedTuple):
    """Whether row n is the best match of row n, [n] a direction; of equal matches the first counts."""

    forward: Hits
    """Of x among y."""
    backward: Hits
    """Of y among x."""


def nearest(x: npt.ArrayLike, y: npt.ArrayLike) -> NearestNeighbours:
    """By cosine; x and y [n, dim] are translations row by row.

    Raises:
        TaskError: sides that differ in shape, no rows, or a vector that is zero or not finite.
    """
    left, right = _units(x, y)
    return _found(left, right, lambda block, rows: block)


def margin(x: npt.ArrayLike, y: npt.ArrayLike, k: int = 4) -> NearestNeighbours:
    """By the ratio margin over k neighbours, or all n where they are fewer.

    A sentence whose neighbours have a mean cosine of zero or less counts as lonely as can be: the ratio has no meaning.

    Raises:
        TaskError: as `nearest`, or k < 1.
    """
    if k < 1:
        raise TaskError(f"k={k} neighbours make no margin; give at least one (the paper has 4)")
    left, right = _units(x, y)
    near_left, near_right = _neighbourhoods(left, right, min(k, len(left)))

    def ratio(block: Floats, rows: slice) -> Floats:
        density = np.maximum((near_left[rows, None] + near_right) / 2, np.float32(_LEAST))
        return np.asarray(block / density, np.float32)

    return _found(left, right, ratio)


def score_bitext(task: BitextTask, vectors: npt.ArrayLike) -> tuple[pa.Table, Scorecard]:
    """Judge the vectors of the task's sentences [sentences, dim].

    Returns the table per sentence (query_id, language, setting, passage_language, `R@1`, `MarginR@1`) and the means:
    accuracies over the sentences of a pair, then over pairs, each direction that the task has by itself.

    Raises:
        TaskError: the vectors are not those of the task, or one is zero or not finite.
    """
    checked = np.asarray(vectors)
    if len(checked) != task.sentences.num_rows:
        raise TaskError(f"task {task.name}: {len(checked)} vectors for {task.sentences.num_rows} sentences")
    card = Scorecard(task.name, task.fingerprint, task.languages, {}, {})
    tables = []
    for pair in task.pairs:
        source, target = (checked[rows.start : rows.stop] for rows in (pair.source_rows, pair.target_rows))
        by_measure = {NEAREST: nearest(source, target), MARGIN: margin(source, target)}
        ways = [(pair.source, pair.target), (pair.target, pair.source)][: 2 if task.both_ways else 1]
        for way, (asked, found) in enumerate(ways):
            hits = {name: both[way] for name, both in by_measure.items()}
            card.pairs.setdefault(asked, {})[found] = {name: float(values.mean()) for name, values in hits.items()}
            card.num_queries[asked] = card.num_queries.get(asked, 0) + len(source)
            card.num_documents[found] = card.num_documents.get(found, 0) + len(target)
            tables.append(_table(asked, found, hits))
    means = [measures for row in card.pairs.values() for measures in row.values()]
    card.settings[CROSS_LINGUAL] = {name: float(np.mean([of[name] for of in means])) for name in BitextTask.measures}
    return of_task(pa.concat_tables(tables), task.fingerprint), card


def _table(asked: str, found: str, hits: dict[str, Hits]) -> pa.Table:
    num = len(hits[NEAREST])
    return pa.table(
        {
            "query_id": [f"{asked}_{row}" for row in range(num)],
            "language": [asked] * num,
            "setting": [CROSS_LINGUAL] * num,
            "passage_language": [found] * num,
            **{name: values.astype(np.float64) for name, values in hits.items()},
        }
    )


def _units(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    sides = [np.asarray(side) for side in (x, y)]
    if sides[0].shape != sides[1].shape or sides[0].ndim != 2 or not len(sides[0]):
        raise TaskError(f"vectors {list(sides[0].shape)} and {list(sides[1].shape)} are not translations row by row")
    units = []
    for side in sides:
        checked = checked_vectors(side, lambda row: f"sentence number {row}")
        lengths = np.linalg.norm(checked, axis=1, keepdims=True)
        if not lengths.all():
            raise TaskError(f"the vector of sentence number {int(np.argmin(lengths))} is zero, so it has no direction")
        units.append(checked / lengths)
    return units[0], units[1]


def _blocks(left: Floats, right: Floats) -> Iterator[tuple[slice, Floats]]:
    """Cosines of some rows of `left` with all of `right`."""
    step = max(1, _BLOCK // len(right))
    for start in range(0, len(left), step):
        rows = slice(start, min(start + step, len(left)))
        yield rows, left[rows] @ right.T


def _found(left: Floats, right: Floats, score: Callable[[Floats, slice], Floats]) -> NearestNeighbours:
    forward: Integers = np.empty(len(left), np.int64)
    backward: Integers = np.zeros(len(right), np.int64)
    best = np.full(len(right), -np.inf, np.float32)
    for rows, cosines in _blocks(left, right):
        scores = score(cosines, rows)
        forward[rows] = scores.argmax(axis=1)
        leaders = scores.argmax(axis=0)
        values = np.take_along_axis(scores, leaders[None], axis=0)[0]
        better = values > best
        best[better], backward[better] = values[better], leaders[better] + rows.start
    own = np.arange(len(left))
    return NearestNeighbours(forward == own, backward == own)


def _neighbourhoods(left: Floats, right: Floats, k: int) -> tuple[Floats, Floats]:
    """The mean cosine of each row with its k nearest on the other side: [n] and [n]."""
    means = np.empty(len(left), np.float32)
    top = np.full((k, len(right)), -np.inf, np.float32)
    for rows, cosines in _blocks(left, right):
        means[rows] = np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
        top = np.partition(np.vstack([top, cosines]), -k, axis=0)[-k:]
    return means, top.mean(axis=0)
