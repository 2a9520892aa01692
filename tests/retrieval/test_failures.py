"""Failures: the worst questions with a wrong first document, each with what should have come and what came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.errors import DamagedFile
from hbt_ray.retrieval import evaluate as module
from hbt_ray.retrieval.evaluate import FAILURES_SCHEMA, collect_failures
from hbt_ray.retrieval.result import FAILURES_FILE, PER_QUERY_FILE, EvaluationResult
from hbt_ray.retrieval.score import score_rankings
from hbt_ray.retrieval.tasks import Task
from tests.retrieval.test_language_preference import DE, EN, Ranked, first, numbers, parallel


def of(task: Task, *rankings: list[int]) -> pa.Table:
    index = Ranked(task, list(rankings))
    table, _ = score_rankings(task, numbers(task), index)
    return collect_failures(task, table, numbers(task), index, np.array(rankings)[:, 0])


def test_a_failure_shows_the_best_answer_and_what_came_first() -> None:
    # de_0 is answered at rank 1, de_5 at 6 and 18, en_3 at 3 and 24.
    found = of(parallel("de_0", "de_5", "en_3"), first(), first(), [EN[0], DE[1], EN[3], *range(4, 12), 0, 2, 13, 14,
               *range(16, 24), 3])  # fmt: skip
    assert found.schema == FAILURES_SCHEMA
    assert found["query_id"].to_pylist() == ["de_5", "en_3"]
    assert found.to_pylist()[0] == {
        "query_id": "de_5", "language": "de", "question": "de_5", "AP": pytest.approx((1 / 6 + 2 / 18) / 2),
        "gold_id": "de_5", "gold_language": "de", "gold": "text 5", "gold_rank": 6,
        "first_id": "de_0", "first_language": "de", "first": "text 0",
    }  # fmt: skip
    last = found.to_pylist()[1]
    assert (last["gold_id"], last["gold_rank"], last["first_id"]) == ("en_3", 3, "en_0")


def test_each_language_has_its_share_and_the_worst_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FAILURES_PER_LANGUAGE", 2)
    task = parallel(*(f"de_{n}" for n in range(12)), "en_1", "en_11")
    found = of(task, *[first()] * 14)
    assert sorted(found["query_id"].to_pylist()) == ["de_10", "de_11", "en_1", "en_11"]
    precision = found["AP"].to_pylist()
    assert precision == sorted(precision)
    monkeypatch.setattr(module, "MAX_FAILURES", 3)
    assert sorted(of(task, *[first()] * 14)["query_id"].to_pylist()) == ["de_11", "en_11"]


def test_nothing_wrong_is_an_empty_table() -> None:
    found = of(parallel("de_0"), first())
    assert (found.schema, found.num_rows) == (FAILURES_SCHEMA, 0)


def test_texts_are_cut_by_characters_and_not_by_bytes() -> None:
    task = parallel("de_1")
    long = pa.array(["ไทย" * 400, *task.documents["text"].to_pylist()[1:]])
    task = Task("long", task.documents.set_column(2, "text", long), task.queries, task.qrels)
    assert of(task, first())["first"].to_pylist() == [("ไทย" * 167)[:500] + "…"]


def test_evidence_is_what_is_there(tmp_path: Path) -> None:
    task = parallel("de_5")
    index = Ranked(task, [first()])
    table, card = score_rankings(task, numbers(task), index)
    result = EvaluationResult(model="m", fingerprint="f", **card.fields())
    path = result.save(tmp_path)
    old = EvaluationResult.load(path)
    assert (old.queries, old.failures) == (None, None)
    pq.write_table(table, tmp_path / PER_QUERY_FILE)
    pq.write_table(of(task, first()), tmp_path / FAILURES_FILE)
    result.save(tmp_path)
    now = EvaluationResult.load(path)
    assert now.queries is not None
    assert now.queries.equals(table)
    assert now.failures is not None
    assert now.failures["query_id"].to_pylist() == ["de_5"]
    (tmp_path / PER_QUERY_FILE).write_bytes(b"half")
    with pytest.raises(DamagedFile) as caught:
        _ = EvaluationResult.load(path).queries
    assert caught.value.path == str(tmp_path / PER_QUERY_FILE)
