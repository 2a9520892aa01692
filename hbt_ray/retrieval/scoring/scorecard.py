"""The judge: every measure of the three settings (2408.10536, section 3) from one pass over the corpus.

Of a query's relevant documents two ranks are asked: that among the documents of the same language (monolingual where it
is the query's language, else cross-lingual), and that in the pool of all languages; exact over lists of any length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import NEVER, RANK_DISTANCE, Values, measure
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, Measures
from hbt_ray.retrieval.scoring.language_preference import PER_QUESTION, SHARE_DISTANCE, Preference, preference
from hbt_ray.retrieval.search.ranking import Hits, Ranking, places_without, search_without
from hbt_ray.retrieval.significance import of_task
from hbt_ray.retrieval.tasks import Task

MEASURES = ("AP", "R@1", "R@10", "nDCG@10")
POOL_ONLY = (RANK_DISTANCE, *PER_QUESTION)
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


def first_documents(task: Task, queries: npt.NDArray[Any], index: Ranking, k: int) -> Hits:
    """The first k documents of the task's queries in the pool, without those that the queries are themselves."""
    return search_without(index, queries, k, task.own_documents)


def score_rankings(
    task: Task, queries: npt.NDArray[Any], index: Ranking, first: npt.NDArray[np.int64] | None = None
) -> tuple[pa.Table, Scorecard]:
    """Judge the task's queries, as the index takes them, against an index of its documents, in the task's order.

    Returns the per-query table and the means. The table's columns are query_id, language, setting, passage_language
    (empty in the multilingual setting) and one a measure, of `MEASURES` and of the task's own, then `POOL_ONLY`: null
    outside the multilingual setting and where a measure is not defined (see `preference`). A pair of languages has only
    the questions with a relevant document in the second one; a setting without any pair is left out. Means are taken
    over the questions of a language or pair that have a value, then over languages or pairs.

    A query's own document (`Task.own_documents`) is in none of its rankings. A relevant document that the corpus lacks
    counts as never found, in the pool and among the documents in the query's language.

    Args:
        first: the first documents of each query in the pool, [queries, depth] as `first_documents` lists them, for the
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
    places = places_without(index, queries, task.relevant, task.own_documents, languages)
    asked = np.asarray(task.queries["language"].to_pylist())
    missing = (task.relevant < 0) & (task.grades > 0)
    groups = []
    for language in np.unique(languages).tolist():
        ranks = np.where((task.relevant >= 0) & (languages[task.relevant] == language), places.own, 0)
        ranks[missing & (asked == language)[:, None]] = NEVER
        groups.append(_Group(language, np.flatnonzero(ranks.any(axis=1)), ranks))
    groups.append(_Group("", np.arange(len(queries)), np.where(missing, NEVER, places.pool)))
    return _summarise(task, groups, preference(task, places.pool, first))


@dataclass(frozen=True)
class _Group:
    """Ranks among the documents of one language, or of all where `language` is empty."""

    language: str
    queries: npt.NDArray[np.int64]
    """Those with a relevant document there."""
    ranks: npt.NDArray[np.int64]
    """[all queries, relevant], 0 where a document is not in this group."""


def _summarise(task: Task, groups: Iterable[_Group], preferred: Preference) -> tuple[pa.Table, Scorecard]:
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
    return of_task(pa.concat_tables(tables), task.fingerprint), card


def _means(values: dict[str, Values], rows: npt.NDArray[np.bool_]) -> Measures:
    """Over the rows that have a value; a measure without any is left out."""
    kept = {name: column[rows & ~np.isnan(column)] for name, column in values.items()}
    return {name: float(column.mean()) for name, column in kept.items() if len(column)}


def measures_of(task: Task) -> tuple[str, ...]:
    """The judge's measures and the task's own; the rank distance is not among them, as the pool alone has it."""
    return tuple(dict.fromkeys(name for name in (*MEASURES, *task.measures) if name != RANK_DISTANCE))


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
    for name in (*measures_of(task), *POOL_ONLY):
        absent = pa.nulls(len(languages), pa.float64())
        columns[name] = pa.array(values[name], pa.float64(), from_pandas=True) if name in values else absent
    return pa.table(columns)


def _counts(table: pa.Table) -> dict[str, int]:
    counted = {entry["values"]: entry["counts"] for entry in table["language"].value_counts().to_pylist()}
    return dict(sorted(counted.items()))
