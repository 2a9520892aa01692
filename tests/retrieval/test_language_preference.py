"""Preference of languages: what is measured, for which questions, and what results and tables keep of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_ray.retrieval.bias import language_preference
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.score import DEFAULT_MEASURES, POOL_MEASURES, score_rankings
from hbt_ray.retrieval.search.ranking import DocumentRanks, Hits
from hbt_ray.retrieval.tasks import Task

DE, EN = range(0, 12), range(12, 24)


def parallel(*queries: str, languages: str = "de en") -> Task:
    """Twelve documents a language; question number n is answered by document n of each language."""
    documents = [(f"{tag}_{n}", tag, f"text {n}") for tag in languages.split() for n in range(12)]
    rows = [(query, query[:2], query) for query in queries]
    qrels = [(query, f"{tag}_{query.split('_')[1]}") for query in queries for tag in languages.split()]
    return Task.from_rows("parallel", documents, rows, qrels)


class Ranked:
    """Ranks by hand: [queries, documents] rows of the corpus, best first; a vector is the number of its query."""

    def __init__(self, task: Task, rankings: list[list[int]]) -> None:
        self.ids = task.documents["doc_id"].to_pylist()
        self._of = np.asarray(task.documents["language"].to_pylist())
        self.documents = np.array(rankings)

    def document_ranks(self, queries: Any, documents: np.ndarray) -> DocumentRanks:
        own, pool = np.zeros(documents.shape, np.int64), np.zeros(documents.shape, np.int64)
        for query, column in np.argwhere(documents >= 0):
            ranking, row = self.documents[int(queries[query, 0])].tolist(), documents[query, column]
            before = ranking[: ranking.index(row)]
            own[query, column] = 1 + (self._of[before] == self._of[row]).sum()
            pool[query, column] = 1 + len(before)
        return DocumentRanks(own, pool)

    def search(self, queries: Any, k: int) -> Hits:
        found = self.documents[queries[:, 0].astype(int), :k]
        return Hits(found, np.zeros(found.shape, np.float32))


def numbers(task: Task) -> np.ndarray:
    return np.arange(task.queries.num_rows, dtype=np.float32)[:, None]


def first(*documents: int) -> list[int]:
    """These, then all others in order."""
    return [*documents, *(row for row in range(24) if row not in documents)]


def judged(task: Task, *rankings: list[int], depth: int | None = 24) -> tuple[list[dict[str, Any]], Any]:
    index = Ranked(task, list(rankings))
    shown = None if depth is None else index.documents[:, :depth]
    table, card = score_rankings(task, numbers(task), index, shown)
    return table.to_pylist(), card


def test_a_pool_of_two_languages_by_hand() -> None:
    # The German question has German before English, its answers at 1 and 13; the English one both at 1 and 2.
    rows, card = judged(parallel("de_0", "en_0"), first(*DE), first(12, 0, *range(13, 24)))
    pooled = {row["query_id"]: row for row in rows if row["setting"] == "multilingual"}
    assert [pooled["de_0"][name] for name in ("RankDistance", "MaxR", "OwnLanguageFirst")] == [12, 13, 1]
    assert [pooled["en_0"][name] for name in ("RankDistance", "MaxR", "OwnLanguageFirst")] == [1, 2, 1]
    assert pooled["de_0"]["MRC@10"] == pooled["en_0"]["MRC@10"] < 0
    assert {row[name] for row in rows if row["setting"] != "multilingual" for name in POOL_MEASURES} == {None}
    assert card.settings["multilingual"]["MaxR"] == 7.5
    assert card.settings["monolingual"].keys() == set(DEFAULT_MEASURES)
    # Of ten, German holds ten and one; half of the pool is German.
    assert card.language_share == {
        "de": pytest.approx({"de": 1, "en": 0}),
        "en": pytest.approx({"de": 0.1, "en": 0.9}),
    }
    assert card.pool["de"]["ShareDistance@10"] == pytest.approx(0.5)
    assert card.pool["en"]["ShareDistance@10"] == pytest.approx(0.4)
    assert card.settings["multilingual"]["ShareDistance@10"] == pytest.approx(0.45)


def test_without_the_first_documents_ranks_alone_are_judged() -> None:
    rows, card = judged(parallel("de_0", "en_0"), first(*DE), first(*EN), depth=None)
    assert card.language_share == {}
    assert card.settings["multilingual"].keys() == {*DEFAULT_MEASURES, "RankDistance", "MaxR", "OwnLanguageFirst"}
    assert {row["MRC@10"] for row in rows} == {None}


def test_one_language_of_documents_has_no_preference() -> None:
    task = parallel("de_0", "en_0", languages="de")
    rankings = [list(range(12))] * 2
    rows, card = judged(task, *rankings, depth=12)
    assert card.settings["multilingual"].keys() == {*DEFAULT_MEASURES, "RankDistance"}
    assert card.language_share == {}
    assert all(row[name] is None for row in rows for name in POOL_MEASURES[1:])


def test_rankings_are_compared_with_those_of_translations_alone() -> None:
    same_number = parallel("de_0", "en_0", "de_1", "en_2")
    ranks = np.ones((4, 2), np.int64)
    rankings = np.array([first(), first(), first(5), first(6)])
    values = language_preference(same_number, ranks, rankings).values["MRC@10"]
    assert values[:2].tolist() == [1, 1]
    assert np.isnan(values[2:]).all(), "a question without a translation has nobody to agree with"
    # The same item, by number, but answered by other documents: corpora that count from one in each language.
    other = Task("chance", same_number.documents, same_number.queries, same_number.qrels.slice(0, 3))
    assert np.isnan(language_preference(other, np.ones((2, 2), np.int64), rankings[:2]).values["MRC@10"]).all()


def test_a_list_that_an_approximate_index_left_short_is_not_counted() -> None:
    task = parallel("de_0", "de_1", "en_0")
    rankings = np.array([first(*DE), first(*EN), first(*EN)])
    rankings[0, 4:] = -1
    found = language_preference(task, np.ones((3, 2), np.int64), rankings)
    assert found.share["de"] == pytest.approx({"de": 0, "en": 1})
    assert np.isnan(found.values["MRC@10"]).all()
    rankings[0] = first(*DE)
    rankings[0, 11:] = -1
    share = language_preference(task, np.ones((3, 2), np.int64), rankings).share
    assert share["de"] == pytest.approx({"de": 0.5, "en": 0.5})


def test_a_result_comes_back(tmp_path: Path) -> None:
    _, card = judged(parallel("de_0", "en_0"), first(*DE), first(*EN))
    result = EvaluationResult(model="m", fingerprint="f", **card.fields())
    path = result.save(tmp_path)
    assert EvaluationResult.load(path) == result
