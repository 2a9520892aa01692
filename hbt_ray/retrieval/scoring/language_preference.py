"""Preference: what the pool of all languages says of languages beside relevance, as columns of the per-query table.

The rank distance stands with the other measures, since a task may name it; these are the judge's own. PEER is not among
them: where each question has one relevant document a language (XQuAD-R, MLQA-R), its p-value is one constant, whatever
the order (see `bias.peer`), and a column that says nothing would look like a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hbt_ray.retrieval.bias import (
    language_share,
    max_rank,
    mean_rank_correlation,
    own_language_first,
    share_distance,
)
from hbt_ray.retrieval.measures import Ranks, Values
from hbt_ray.retrieval.significance import item_ids
from hbt_ray.retrieval.tasks import Task

TOP = 10
"""Documents of a question whose languages are counted, and whose order is compared with that of its translations."""
DEPTH = 100
"""Documents of a question that the comparison of rankings knows; see `bias.mean_rank_correlation`."""
MAX_RANK = "MaxR"
OWN_LANGUAGE_FIRST = "OwnLanguageFirst"
RANK_CORRELATION = f"MRC@{TOP}"
SHARE_DISTANCE = f"ShareDistance@{TOP}"
PER_QUESTION = (MAX_RANK, OWN_LANGUAGE_FIRST, RANK_CORRELATION)


@dataclass(frozen=True)
class Preference:
    values: dict[str, Values] = field(default_factory=dict)
    """Of `PER_QUESTION`, one value a question; NaN where it is not defined."""
    share: dict[str, dict[str, float]] = field(default_factory=dict)
    """Question language → passage language → mean share of the first `TOP`."""
    distance: dict[str, float] = field(default_factory=dict)
    """Question language → `ShareDistance`: how far these shares are from those of the pool."""


def preference(task: Task, ranks: Ranks, first: npt.NDArray[np.int64] | None = None) -> Preference:
    """What can be said of a task; nothing where its documents have one language.

    Args:
        ranks: of the task's relevant documents in the pool, [queries, relevant], 0 as padding.
        first: rows of the first documents in the pool, [queries, depth], -1 where there are fewer; best `DEPTH` of
            them. Without it nothing is said of shares and correlations. Fewer than `TOP` columns count as they are.
    """
    languages = np.asarray(task.documents["language"].to_pylist())
    if len(np.unique(languages)) < 2:
        return Preference()
    asked = np.asarray(task.queries["language"].to_pylist())
    values = {
        MAX_RANK: max_rank(ranks),
        OWN_LANGUAGE_FIRST: own_language_first(ranks, languages[task.relevant], asked),
    }
    if first is None:
        return Preference(values)
    first = first[:, :DEPTH]
    # An approximate index may find fewer: a share of what it found would be one of another list.
    full = (first[:, :TOP] >= 0).all(axis=1)
    values[RANK_CORRELATION] = np.full(len(asked), np.nan)
    if min(TOP, first.shape[1]) > 1:
        items = _parallel_items(task, asked)[full]
        values[RANK_CORRELATION][full] = mean_rank_correlation(first[full], items, min(TOP, first.shape[1]))
    top, asked = first[full, :TOP], asked[full]
    return Preference(values, _shares(top, languages, asked), share_distance(top, languages, asked))


def _parallel_items(task: Task, asked: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """[queries]: one number for all translations of a question.

    They share an item and the relevant documents: the first alone may be chance, as in corpora that number the
    questions of each language from 1; the second alone is two questions on one passage.
    """
    items = item_ids(np.asarray(task.queries["query_id"].to_pylist(), dtype=np.str_), asked)
    numbers = np.unique(items, return_inverse=True)[1].reshape(-1, 1)
    return np.unique(np.hstack([numbers, task.relevant]), axis=0, return_inverse=True)[1].reshape(-1)


def _shares(
    top: npt.NDArray[np.int64], languages: npt.NDArray[np.str_], asked: npt.NDArray[np.str_]
) -> dict[str, dict[str, float]]:
    names: Sequence[str] = np.unique(languages).tolist()
    shares = language_share(top, languages)
    return {
        question: dict(zip(names, shares[asked == question].mean(axis=0).tolist(), strict=True))
        for question in np.unique(asked).tolist()
    }
