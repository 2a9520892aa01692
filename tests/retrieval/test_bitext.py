from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.errors import TaskError
from hbt_ray.report.evaluation_page import write_evaluation_page
from hbt_ray.retrieval import score
from hbt_ray.retrieval.compare import compare
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.score import margin, nearest, score_bitext
from hbt_ray.retrieval.tasks.bitext_task import BitextTask, multiway, with_english


def by_angle(*degrees: float) -> np.ndarray:
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], dtype=np.float32)


def by_definition(x: np.ndarray, y: np.ndarray, k: int | None) -> tuple[list[bool], list[bool]]:
    """Cosines, or equation 2 with the ratio of equation 4, one pair of sentences at a time in float64."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    def near(a: np.ndarray, among: np.ndarray, k: int) -> float:
        return sum(sorted((cosine(a, z) / (2 * k) for z in among), reverse=True)[:k])

    def score(a: np.ndarray, b: np.ndarray) -> float:
        return cosine(a, b) / (near(a, y, k) + near(b, x, k)) if k else cosine(a, b)

    scores = [[score(a, b) for b in y] for a in x]
    forward = [row.index(max(row)) == n for n, row in enumerate(scores)]
    columns = list(zip(*scores, strict=True))
    return forward, [column.index(max(column)) == n for n, column in enumerate(columns)]


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
@pytest.mark.parametrize("k", [None, 1, 4, 99])
def test_blocks_give_what_the_equations_say(k: int | None, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_SIMILARITIES", block * 23)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(23, 12)) + 0.7  # away from the origin, as encoders' vectors are
    y = (x + 0.8 * rng.normal(size=x.shape)) * rng.uniform(0.5, 2, (23, 1))
    found = nearest(x, y) if k is None else margin(x, y, k)
    expected = by_definition(x, y, min(k, 23) if k else None)
    assert (found.forward.tolist(), found.backward.tolist()) == expected
    assert 0.2 < np.mean(expected) < 0.95


def test_the_margin_passes_over_a_hub() -> None:
    # y0 lies amid all of x, so it is the nearest of x1 and x2 too; their own are a little farther, but nobody else's.
    x, y = by_angle(0, 20, -20), by_angle(0, 41, -41)
    assert nearest(x, y).forward.tolist() == [True, False, False]
    assert margin(x, y, k=3).forward.tolist() == [True, True, True]


def test_of_equal_matches_the_first_counts() -> None:
    x, y = by_angle(0, 0, 50), by_angle(0, 0, 50)
    assert nearest(x, y).forward.tolist() == nearest(x, y).backward.tolist() == [True, False, True]


def test_vectors_that_make_no_sense_are_refused() -> None:
    fine = by_angle(0, 10)
    with pytest.raises(TaskError) as error:
        nearest(fine, by_angle(0))
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        margin(np.zeros((0, 2)), np.zeros((0, 2)))
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        margin(fine, fine, k=0)
    assert error.value.code == "INVALID_SEARCH"
    with pytest.raises(TaskError) as error:
        nearest(fine, fine * [[1], [0]])
    assert error.value.code == "ZERO_VECTOR"
    with pytest.raises(TaskError) as error:
        nearest(fine * [[np.nan], [1]], fine)
    assert error.value.code == "INVALID_VECTORS"


def vectors_of(task: BitextTask, *degrees: Sequence[float]) -> np.ndarray:
    made = by_angle(*(one for side in degrees for one in side))
    assert len(made) == task.sentences.num_rows
    return made


def test_each_pair_is_searched_by_itself() -> None:
    task = with_english("t", {"de": (["a", "b"], ["A", "B"]), "zh": (["c"] * 3, ["C"] * 3)}, both_ways=False)
    # German finds both; the first two Chinese sentences find one another's English, which is also where German looks.
    table, card = score_bitext(task, vectors_of(task, (0, 30), (1, 31), (0, 30, 60), (31, 1, 61)))
    assert {asked: row["en"]["R@1"] for asked, row in card.pairs.items()} == {"de": 1, "zh": 1 / 3}
    assert card.settings == {"cross-lingual": {"R@1": pytest.approx(2 / 3), "MarginR@1": pytest.approx(2 / 3)}}
    assert (card.num_queries, card.num_documents) == ({"de": 2, "zh": 3}, {"en": 5})
    assert table.num_rows == 5
    assert table.slice(3, 2).to_pylist() == [
        {"query_id": f"zh_{n}", "language": "zh", "setting": "cross-lingual", "passage_language": "en", "R@1": hit,
         "MarginR@1": hit} for n, hit in ((1, 0), (2, 1))
    ]  # fmt: skip
    with pytest.raises(TaskError) as error:
        score_bitext(task, by_angle(0, 1))
    assert error.value.code == "OTHER_TASK"


def test_both_ways_are_figures_of_their_own() -> None:
    task = multiway("m", {"de": ["a", "b"], "en": ["A", "B"], "zh": ["c", "d"]}, pivot=None)
    # From 20° and 30° to 24° and 26°: forward both are found, backward both, but Chinese at 0° and 1° is far from both.
    _, card = score_bitext(task, vectors_of(task, (20, 30), (24, 26), (0, 1)))
    assert {(x, y): m["R@1"] for x, row in card.pairs.items() for y, m in row.items()} == {
        ("de", "en"): 1, ("en", "de"): 1, ("de", "zh"): 0.5, ("zh", "de"): 0.5, ("en", "zh"): 0.5, ("zh", "en"): 0.5,
    }  # fmt: skip
    assert card.settings["cross-lingual"]["R@1"] == pytest.approx(4 / 6)
    assert card.num_queries == {"de": 4, "en": 4, "zh": 4}


def test_a_result_on_bitext_is_shown_with_both_accuracies(tmp_path: Path) -> None:
    task = with_english("tatoeba", {"de": (["a", "b"], ["A", "B"])}, both_ways=False)
    card = score_bitext(task, vectors_of(task, (0, 30), (1, 31)))[1]
    result = EvaluationResult(model="m", fingerprint="f", headline=list(task.measures), **card.fields())
    assert [(column.setting, column.measure) for column in compare([result])[0].columns] == [
        ("cross-lingual", "R@1"), ("cross-lingual", "MarginR@1"),
    ]  # fmt: skip
    page = write_evaluation_page(tmp_path / "page.html", title="t", results=[result]).read_text(encoding="utf-8")
    assert "MarginR@1" in page
