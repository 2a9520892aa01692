"""Scores of one system on one task: all measures of the three settings (2408.10536, section 3).

`score_rankings` scores a task with queries and documents. Each relevant document of a query has two ranks: among the
documents of its own language (monolingual if that is the query's language, else cross-lingual), and in the pool of all
languages (multilingual). Both are exact over lists of any length.

`score_bitext` scores translation pairs: is the best match of a sentence its translation, by cosine and by the ratio
margin? The margin (Artetxe and Schwenk 2019, 1811.01136, equations 2 and 4) divides the cosine of two sentences by the
mean cosine of each with its k nearest neighbours on the other side, so that sentences which are near to everything do
not win every match. Similarities are computed in blocks, never as a whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.bias import QUERY_MEASURES, SHARE_DISTANCE, language_preference
from hbt_ray.retrieval.measures import NOT_RETRIEVED, RANK_DISTANCE, Values, measure
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, Measures
from hbt_ray.retrieval.search.exact_scores import Floats, Integers, checked_vectors
from hbt_ray.retrieval.search.ranking import Hits, RankingIndex, ranks_excluding, search_excluding
from hbt_ray.retrieval.significance import with_task_fingerprint
from hbt_ray.retrieval.tasks import BitextTask, Task

DEFAULT_MEASURES = ("AP", "R@1", "R@10", "nDCG@10")
POOL_MEASURES = (RANK_DISTANCE, *QUERY_MEASURES)
"""Columns of the per-query table that only the multilingual setting fills; they are null in the others."""
NEAREST, MARGIN = BitextTask.measures
_SIMILARITIES = 1 << 22  # similarities at a time: 16 MiB
_MIN_DENSITY = 1e-6

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scorecard:
    """The fields of `EvaluationResult` that depend on the rankings; their meaning is documented there."""

    task: str
    task_fingerprint: str
    languages: list[str]
    num_queries: dict[str, int]
    num_documents: dict[str, int]
    num_identical_ids: int = 0
    num_missing: int = 0
    settings: dict[str, Measures] = field(default_factory=dict)
    pairs: dict[str, dict[str, Measures]] = field(default_factory=dict)
    pool: dict[str, Measures] = field(default_factory=dict)
    language_share: dict[str, Measures] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Keyword arguments: `EvaluationResult(model=…, fingerprint=…, **scorecard.fields())`."""
        return asdict(self)


def top_documents(task: Task, queries: npt.NDArray[Any], index: RankingIndex, k: int) -> Hits:
    """The first k documents of the task's queries in the pool, without the queries' own documents."""
    return search_excluding(index, queries, k, task.own_documents)


def score_rankings(
    task: Task, queries: npt.NDArray[Any], index: RankingIndex, top: npt.NDArray[np.int64] | None = None
) -> tuple[pa.Table, Scorecard]:
    """Score an index of the task's documents on the task's queries.

    A query's own document (`Task.own_documents`) is left out of its rankings. A relevant document that the corpus lacks
    counts as never found, in the pool and among the documents in the query's language. A pair of languages has only the
    questions with a relevant document in the second one; a setting without any pair is left out. Means are taken over
    the questions of a language or pair that have a value, then over languages or pairs.

    Args:
        queries: one row per query, as the index takes them, in the task's order.
        top: [queries, depth] first documents of each query in the pool, see `top_documents`. Default: leave out the
            measures of language preference that need them.

    Returns:
        The per-query table and the means. Columns of the table are query_id, language, setting, passage_language
        (empty in the multilingual setting) and one per measure: `DEFAULT_MEASURES`, the task's own, then
        `POOL_MEASURES`. The latter are null outside the multilingual setting and for queries without a value.

    Raises:
        TaskError: the index or the queries are not those of the task, or a vector is not finite.
    """
    if index.ids != task.documents["doc_id"].to_pylist():
        raise TaskError(
            f"task {task.name}: the index holds other documents; build it with ShardedIndex.of_task",
            code="OTHER_TASK",
        )
    if len(queries) != task.queries.num_rows:
        raise TaskError(
            f"task {task.name}: {len(queries)} query vectors for {task.queries.num_rows} queries; encode "
            "`task.queries` (queries without relevant documents are not among them)",
            code="OTHER_TASK",
        )
    languages = np.asarray(task.documents["language"].to_pylist())
    query_languages = np.asarray(task.queries["language"].to_pylist())
    ranks = ranks_excluding(index, queries, task.relevant, task.own_documents, languages)
    missing = (task.relevant < 0) & (task.grades > 0)  # Padding has the row -1 too, but no grade.
    card = Scorecard(
        task=task.name,
        task_fingerprint=task.fingerprint,
        languages=task.languages,
        num_queries=_count_languages(task.queries),
        num_documents=_count_languages(task.documents),
        num_identical_ids=task.num_identical_ids,
        num_missing=task.num_missing,
    )
    tables, names = [], measures_of(task)
    for language in np.unique(languages).tolist():
        # [queries, relevant]: ranks among the documents of the language, 0 for documents outside it.
        group_ranks = np.where((task.relevant >= 0) & (languages[task.relevant] == language), ranks.in_language, 0)
        # A missing document has no language: outside the pool it counts for the language of the query.
        group_ranks[missing & (query_languages == language)[:, None]] = NOT_RETRIEVED
        rows = np.flatnonzero(group_ranks.any(axis=1))
        values = measure(names, group_ranks[rows], task.grades[rows])
        tables.append(_per_query_table(task, language, rows, values))
        for source, means in _means_by_language(values, query_languages[rows]).items():
            card.pairs.setdefault(source, {})[language] = means
    preference = language_preference(task, ranks.pool, top)
    pool_ranks = np.where(missing, NOT_RETRIEVED, ranks.pool)
    values = measure((*names, RANK_DISTANCE), pool_ranks, task.grades) | preference.values
    tables.append(_per_query_table(task, "", np.arange(len(queries)), values))
    card.pool.update(_means_by_language(values, query_languages))
    card.language_share.update(preference.share)
    for language, distance in preference.distance.items():
        card.pool[language][SHARE_DISTANCE] = distance
    # The card is frozen; only its dictionaries are filled.
    card.settings.update(macro_averages(card.pairs, card.pool))
    return with_task_fingerprint(pa.concat_tables(tables), task.fingerprint), card


def measures_of(task: Task) -> tuple[str, ...]:
    """The default measures and the task's own, except for the rank distance, which is defined in the pool only."""
    return tuple(dict.fromkeys(name for name in (*DEFAULT_MEASURES, *task.measures) if name != RANK_DISTANCE))


def macro_averages(pairs: Mapping[str, Mapping[str, Measures]], pool: Mapping[str, Measures]) -> dict[str, Measures]:
    """Setting → mean of each measure over languages, or over ordered pairs of languages.

    Args:
        pairs: question language → passage language → measures.
        pool: question language → measures in the pool of all languages.
    """
    cells = [(source, target, means) for source, row in pairs.items() for target, means in row.items()]
    members = {
        MONOLINGUAL: [means for source, target, means in cells if source == target],
        CROSS_LINGUAL: [means for source, target, means in cells if source != target],
        MULTILINGUAL: list(pool.values()),
    }
    return {
        setting: {
            name: float(np.mean([means[name] for means in group if name in means]))
            for name in dict.fromkeys(name for means in group for name in means)
        }
        for setting, group in members.items()
        if group
    }


def _means_by_language(values: dict[str, Values], languages: npt.NDArray[np.str_]) -> dict[str, Measures]:
    """Question language → means over its questions that have a value; a measure without any is left out."""
    means: dict[str, Measures] = {}
    for language in np.unique(languages).tolist():
        known = {name: column[(languages == language) & ~np.isnan(column)] for name, column in values.items()}
        means[language] = {name: float(column.mean()) for name, column in known.items() if len(column)}
    return means


def _per_query_table(
    task: Task, passage_language: str, rows: npt.NDArray[np.int64], values: dict[str, Values]
) -> pa.Table:
    """Rows of the per-query table for the queries `rows`; an empty passage language means the pool."""
    queries = task.queries.take(pa.array(rows)).combine_chunks()
    languages = np.asarray(queries["language"].to_pylist(), dtype=np.str_)
    within = np.where(languages == passage_language, MONOLINGUAL, CROSS_LINGUAL)
    settings = within.tolist() if passage_language else [MULTILINGUAL] * len(rows)
    columns = {
        "query_id": queries["query_id"],
        "language": pa.array(languages.tolist(), pa.string()),
        "setting": pa.array(settings, pa.string()),
        "passage_language": pa.array([passage_language] * len(rows), pa.string()),
    }
    for name in (*measures_of(task), *POOL_MEASURES):
        absent = pa.nulls(len(rows), pa.float64())
        # `from_pandas` makes NaN null.
        columns[name] = pa.array(values[name], pa.float64(), from_pandas=True) if name in values else absent
    return pa.table(columns)


def _count_languages(table: pa.Table) -> dict[str, int]:
    counted = {entry["values"]: entry["counts"] for entry in table["language"].value_counts().to_pylist()}
    return dict(sorted(counted.items()))


class NearestNeighbours(NamedTuple):
    """For each row, whether its best match is the row of the same number; among equal matches the first counts."""

    forward: Flags
    """[n] matches of x among y."""
    backward: Flags
    """[n] matches of y among x."""


def nearest(x: npt.ArrayLike, y: npt.ArrayLike) -> NearestNeighbours:
    """Match by cosine; x and y [n, dim] are translations row by row.

    Raises:
        TaskError: x and y differ in shape, have no rows, or a vector is zero or not finite.
    """
    left, right = _unit_vectors(x, y)
    return _matches(left, right, lambda block, rows: block)


def margin(x: npt.ArrayLike, y: npt.ArrayLike, k: int = 4) -> NearestNeighbours:
    """Match by the ratio margin over k neighbours, or over all n if n is less.

    If the mean cosine of the neighbours is zero or less, the ratio has no meaning; a tiny positive one replaces it.

    Raises:
        TaskError: see `nearest`, or k < 1.
    """
    if k < 1:
        raise TaskError(f"k={k} neighbours make no margin; give at least one (the paper has 4)", code="INVALID_SEARCH")
    left, right = _unit_vectors(x, y)
    near_left, near_right = _neighbour_means(left, right, min(k, len(left)))

    def ratio(block: Floats, rows: slice) -> Floats:
        density = np.maximum((near_left[rows, None] + near_right) / 2, np.float32(_MIN_DENSITY))
        return np.asarray(block / density, np.float32)

    return _matches(left, right, ratio)


def score_bitext(task: BitextTask, vectors: npt.ArrayLike) -> tuple[pa.Table, Scorecard]:
    """Score the vectors of the task's sentences, [sentences, dim].

    Returns:
        The table per sentence (query_id, language, setting, passage_language, `R@1`, `MarginR@1`) and the means:
        accuracies over the sentences of a pair, then over pairs. Each direction of search counts as a pair.

    Raises:
        TaskError: the vectors are not those of the task, or one is zero or not finite.
    """
    checked = np.asarray(vectors)
    if len(checked) != task.sentences.num_rows:
        raise TaskError(
            f"task {task.name}: {len(checked)} vectors for {task.sentences.num_rows} sentences", code="OTHER_TASK"
        )
    card = Scorecard(task.name, task.fingerprint, task.languages, {}, {})
    tables = []
    for pair in task.pairs:
        source, target = (checked[rows.start : rows.stop] for rows in (pair.source_rows, pair.target_rows))
        by_measure = {NEAREST: nearest(source, target), MARGIN: margin(source, target)}
        directions = [(pair.source, pair.target), (pair.target, pair.source)][: 2 if task.both_ways else 1]
        for direction, (question, passage) in enumerate(directions):
            # Direction 0 is `NearestNeighbours.forward`, 1 is `backward`.
            hits = {name: matches[direction] for name, matches in by_measure.items()}
            card.pairs.setdefault(question, {})[passage] = {name: float(flags.mean()) for name, flags in hits.items()}
            num = len(source)
            card.num_queries[question] = card.num_queries.get(question, 0) + num
            card.num_documents[passage] = card.num_documents.get(passage, 0) + num
            columns = {
                "query_id": [f"{question}_{row}" for row in range(num)],
                "language": [question] * num,
                "setting": [CROSS_LINGUAL] * num,
                "passage_language": [passage] * num,
                **{name: flags.astype(np.float64) for name, flags in hits.items()},
            }
            tables.append(pa.table(columns))
    card.settings.update(macro_averages(card.pairs, {}))
    return with_task_fingerprint(pa.concat_tables(tables), task.fingerprint), card


def _unit_vectors(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    sides = [np.asarray(side) for side in (x, y)]
    if sides[0].shape != sides[1].shape or sides[0].ndim != 2 or not len(sides[0]):
        raise TaskError(
            f"vectors {list(sides[0].shape)} and {list(sides[1].shape)} are not translations row by row",
            code="INVALID_VECTORS",
        )
    units = []
    for side in sides:
        checked = checked_vectors(side, lambda row: f"sentence number {row}")
        lengths = np.linalg.norm(checked, axis=1, keepdims=True)
        if not lengths.all():
            raise TaskError(
                f"the vector of sentence number {int(np.argmin(lengths))} is zero, so it has no direction",
                code="ZERO_VECTOR",
            )
        units.append(checked / lengths)
    return units[0], units[1]


def _cosine_blocks(left: Floats, right: Floats) -> Iterator[tuple[slice, Floats]]:
    """Blocks of rows of `left`, and their cosines with all rows of `right`, [rows, n]."""
    step = max(1, _SIMILARITIES // len(right))
    for start in range(0, len(left), step):
        rows = slice(start, min(start + step, len(left)))
        yield rows, left[rows] @ right.T


def _matches(left: Floats, right: Floats, score: Callable[[Floats, slice], Floats]) -> NearestNeighbours:
    forward: Integers = np.empty(len(left), np.int64)
    backward: Integers = np.zeros(len(right), np.int64)
    best = np.full(len(right), -np.inf, np.float32)  # best score of each column in the blocks so far
    for rows, cosines in _cosine_blocks(left, right):
        scores = score(cosines, rows)
        forward[rows] = scores.argmax(axis=1)
        # The best row of this block for each column replaces the best so far only if it is strictly better.
        leaders = scores.argmax(axis=0)
        values = np.take_along_axis(scores, leaders[None], axis=0)[0]
        better = values > best
        best[better], backward[better] = values[better], leaders[better] + rows.start
    translations = np.arange(len(left))
    return NearestNeighbours(forward == translations, backward == translations)


def _neighbour_means(left: Floats, right: Floats, k: int) -> tuple[Floats, Floats]:
    """The mean cosine of each row with its k nearest on the other side: [n] and [n]."""
    means = np.empty(len(left), np.float32)
    # The k best cosines of each column in the blocks so far, so that no matrix [n, n] is held.
    top = np.full((k, len(right)), -np.inf, np.float32)
    for rows, cosines in _cosine_blocks(left, right):
        means[rows] = np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
        top = np.partition(np.vstack([top, cosines]), -k, axis=0)[-k:]
    return means, top.mean(axis=0)
