"""The judge: every measure of the three settings (2408.10536, section 3) from one pass over the corpus.

Of a query's relevant documents two ranks are asked: that among the documents of the same language (monolingual where it
is the query's language, else cross-lingual), and that in the pool of all languages; exact over lists of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.bias import QUERY_MEASURES, SHARE_DISTANCE, LanguagePreference, language_preference
from hbt_ray.retrieval.measures import NOT_RETRIEVED, RANK_DISTANCE, Values, measure
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, Measures
from hbt_ray.retrieval.search.exact_scores import Floats, Integers, checked_vectors
from hbt_ray.retrieval.search.ranking import Hits, RankingIndex, ranks_excluding, search_excluding
from hbt_ray.retrieval.significance import with_task_fingerprint
from hbt_ray.retrieval.tasks import BitextTask, Task

DEFAULT_MEASURES = ("AP", "R@1", "R@10", "nDCG@10")
POOL_MEASURES = (RANK_DISTANCE, *QUERY_MEASURES)
"""Columns of the per-query table that are null outside the multilingual setting."""


@dataclass(frozen=True)
class Scorecard:
    """What `EvaluationResult` needs from the judge, field by field."""

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
        """For `EvaluationResult(model=…, fingerprint=…, **scorecard.fields())`."""
        return asdict(self)


def top_documents(task: Task, queries: npt.NDArray[Any], index: RankingIndex, k: int) -> Hits:
    """The first k documents of the task's queries in the pool, without those that the queries are themselves."""
    return search_excluding(index, queries, k, task.own_documents)


def score_rankings(
    task: Task, queries: npt.NDArray[Any], index: RankingIndex, first: npt.NDArray[np.int64] | None = None
) -> tuple[pa.Table, Scorecard]:
    """Judge the task's queries, as the index takes them, against an index of its documents, in the task's order.

    Returns the per-query table and the means. The table's columns are query_id, language, setting, passage_language
    (empty in the multilingual setting) and one per measure: `DEFAULT_MEASURES`, the task's own, then `POOL_MEASURES`,
    which are null outside the multilingual setting and where they are not defined. A pair of languages has only the
    questions with a relevant document in the second one; a setting without any pair is left out. Means are taken over
    the questions of a language or pair that have a value, then over languages or pairs.

    A query's own document (`Task.own_documents`) is in none of its rankings. A relevant document that the corpus lacks
    counts as never found, in the pool and among the documents in the query's language.

    Args:
        first: the first documents of each query in the pool, [queries, depth] as `top_documents` lists them, for the
            measures of language preference that look at them; without it they are left out.

    Raises:
        TaskError: the index or the queries are not those of the task, or a vector is not finite.
    """
    if index.ids != task.documents["doc_id"].to_pylist():
        raise TaskError(f"task {task.name}: the index holds other documents; build it with ShardedIndex.of_task")
    if len(queries) != task.queries.num_rows:
        raise TaskError(
            f"task {task.name}: {len(queries)} query vectors for {task.queries.num_rows} queries; encode "
            "`task.queries` (queries without relevant documents are not among them)"
        )
    languages = np.asarray(task.documents["language"].to_pylist())
    places = ranks_excluding(index, queries, task.relevant, task.own_documents, languages)
    asked = np.asarray(task.queries["language"].to_pylist())
    missing = (task.relevant < 0) & (task.grades > 0)
    groups = []
    for language in np.unique(languages).tolist():
        ranks = np.where((task.relevant >= 0) & (languages[task.relevant] == language), places.own, 0)
        ranks[missing & (asked == language)[:, None]] = NOT_RETRIEVED
        groups.append(_Group(language, np.flatnonzero(ranks.any(axis=1)), ranks))
    groups.append(_Group("", np.arange(len(queries)), np.where(missing, NOT_RETRIEVED, places.pool)))
    return _summarise(task, groups, language_preference(task, places.pool, first))


@dataclass(frozen=True)
class _Group:
    """Ranks among the documents of one language, or of all where `language` is empty."""

    language: str
    queries: npt.NDArray[np.int64]
    """Those with a relevant document there."""
    ranks: npt.NDArray[np.int64]
    """[all queries, relevant], 0 where a document is not in this group."""


def _summarise(task: Task, groups: Iterable[_Group], preferred: LanguagePreference) -> tuple[pa.Table, Scorecard]:
    asked = np.asarray(task.queries["language"].to_pylist())
    card = _blank(task)
    tables = []
    asks = measures_of(task)
    for group in groups:
        names = asks if group.language else (*asks, RANK_DISTANCE)
        values = measure(names, group.ranks[group.queries], task.grades[group.queries])
        if not group.language:
            values |= preferred.values
        languages = asked[group.queries]
        tables.append(_table(task, group, languages, values))
        for language in np.unique(languages).tolist():
            means = _means(values, languages == language)
            if group.language:
                card.pairs.setdefault(language, {})[group.language] = means
            else:
                card.pool[language] = means
    card.language_share.update(preferred.share)
    for language, distance in preferred.distance.items():
        card.pool[language][SHARE_DISTANCE] = distance
    card.settings.update(_settings(card))
    return with_task_fingerprint(pa.concat_tables(tables), task.fingerprint), card


def _means(values: dict[str, Values], rows: npt.NDArray[np.bool_]) -> Measures:
    """Over the rows that have a value; a measure without any is left out."""
    kept = {name: column[rows & ~np.isnan(column)] for name, column in values.items()}
    return {name: float(column.mean()) for name, column in kept.items() if len(column)}


def measures_of(task: Task) -> tuple[str, ...]:
    """The judge's measures and the task's own; the rank distance is not among them, as the pool alone has it."""
    return tuple(dict.fromkeys(name for name in (*DEFAULT_MEASURES, *task.measures) if name != RANK_DISTANCE))


def _blank(task: Task) -> Scorecard:
    return Scorecard(
        task=task.name,
        task_fingerprint=task.fingerprint,
        languages=task.languages,
        num_queries=_counts(task.queries),
        num_documents=_counts(task.documents),
        num_identical_ids=task.num_identical_ids,
        num_missing=task.num_missing,
    )


def _settings(card: Scorecard) -> dict[str, Measures]:
    """Macro averages: each language, or ordered pair of languages, counts the same."""
    pairs = [(asked, found, means) for asked, row in card.pairs.items() for found, means in row.items()]
    members = {
        MONOLINGUAL: [means for asked, found, means in pairs if asked == found],
        CROSS_LINGUAL: [means for asked, found, means in pairs if asked != found],
        MULTILINGUAL: list(card.pool.values()),
    }
    return {
        setting: {
            name: float(np.mean([means[name] for means in of if name in means]))
            for name in dict.fromkeys(name for means in of for name in means)
        }
        for setting, of in members.items()
        if of
    }


def _table(task: Task, group: _Group, languages: npt.NDArray[np.str_], values: dict[str, Values]) -> pa.Table:
    if group.language:
        settings = np.where(languages == group.language, MONOLINGUAL, CROSS_LINGUAL)
    else:
        settings = np.full(len(languages), MULTILINGUAL)
    columns = {
        "query_id": task.queries["query_id"].take(pa.array(group.queries)).combine_chunks(),
        "language": pa.array(languages.tolist(), pa.string()),
        "setting": pa.array(settings.tolist(), pa.string()),
        "passage_language": pa.array([group.language] * len(languages), pa.string()),
    }
    for name in (*measures_of(task), *POOL_MEASURES):
        absent = pa.nulls(len(languages), pa.float64())
        columns[name] = pa.array(values[name], pa.float64(), from_pandas=True) if name in values else absent
    return pa.table(columns)


def _counts(table: pa.Table) -> dict[str, int]:
    counted = {entry["values"]: entry["counts"] for entry in table["language"].value_counts().to_pylist()}
    return dict(sorted(counted.items()))


NEAREST, MARGIN = BitextTask.measures
_SIMILARITIES = 1 << 22  # similarities at a time: 16 MiB
_LEAST = 1e-6

Matches = npt.NDArray[np.bool_]


class NearestNeighbours(NamedTuple):
    """Whether row n is the best match of row n, [n] a direction; of equal matches the first counts."""

    forward: Matches
    """Of x among y."""
    backward: Matches
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
            tables.append(_bitext_table(asked, found, hits))
    means = [measures for row in card.pairs.values() for measures in row.values()]
    card.settings[CROSS_LINGUAL] = {name: float(np.mean([of[name] for of in means])) for name in BitextTask.measures}
    return with_task_fingerprint(pa.concat_tables(tables), task.fingerprint), card


def _bitext_table(asked: str, found: str, hits: dict[str, Matches]) -> pa.Table:
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
    step = max(1, _SIMILARITIES // len(right))
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
