from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import NOT_RETRIEVED, measure, parse_measure, relevant_ranks

# Not RR@k: trec_eval has none, and the package that ir-measures asks instead breaks ties another way.
NAMES = ("AP", "AP@20", "RR", "nDCG", "nDCG@10", "nDCG@3", "R@1", "R@10", "Success@1", "Success@5")
Query = tuple[dict[str, float], dict[str, int]]
LACKING = "not in the corpus"


@st.composite
def runs(draw: st.DrawFn) -> list[Query]:
    """Queries over one corpus: scores with many ties (among them such that differ in float64 only), relevant ids with
    their grades, some of which the corpus lacks."""
    ids = draw(st.lists(st.text("aAbé文1_", min_size=1, max_size=3), min_size=1, max_size=40, unique=True))
    scores = st.sampled_from([-1.0, 0.0, 0.5, 0.5 + 2.0**-40, 1.0])
    queries = []
    for _ in range(draw(st.integers(1, 4))):
        relevant = draw(st.lists(st.sampled_from([*ids, LACKING]), min_size=1, max_size=15, unique=True))
        grades = draw(st.sampled_from([st.just(1), st.integers(1, 4)]))
        queries.append(({doc_id: draw(scores) for doc_id in ids}, {doc_id: draw(grades) for doc_id in relevant}))
    return queries


def ranks_and_grades(queries: list[Query]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks by trec_eval's rule: float32 score, then id, both descending; padded with zeros in front and behind."""
    ranks = np.zeros((len(queries), 2 + max(len(relevant) for _, relevant in queries)), dtype=np.int64)
    grades = np.zeros_like(ranks)
    for row, (scores, relevant) in enumerate(queries):
        order = sorted(scores, key=lambda doc_id: (np.float32(scores[doc_id]), doc_id), reverse=True)
        ranks[row, 1 : 1 + len(relevant)] = [NOT_RETRIEVED if d == LACKING else order.index(d) + 1 for d in relevant]
        grades[row, 1 : 1 + len(relevant)] = list(relevant.values())
    return ranks, grades


@given(runs())
def test_measures_equal_trec_eval(queries: list[Query]) -> None:
    qrels = [ir_measures.Qrel(str(q), d, g) for q, (_, relevant) in enumerate(queries) for d, g in relevant.items()]
    run = [ir_measures.ScoredDoc(str(q), d, s) for q, (scores, _) in enumerate(queries) for d, s in scores.items()]
    ours = measure(NAMES, *ranks_and_grades(queries))
    parsed = [ir_measures.parse_measure(name) for name in NAMES]
    compared = 0
    for theirs in ir_measures.iter_calc(parsed, qrels, run):
        value = ours[str(theirs.measure)][int(theirs.query_id)]
        assert value == pytest.approx(theirs.value, abs=1e-9), theirs
        compared += 1
    assert compared == len(NAMES) * len(queries)


def test_values_by_hand() -> None:
    ranks = [[5, 1, 2], [0, 4, 0]]
    values = measure(["AP", "RR", "RR@3", "R@2", "Success@2", "RankDistance", "nDCG@4"], ranks)
    assert values["AP"].tolist() == pytest.approx([(1 + 1 + 3 / 5) / 3, 1 / 4])
    assert values["RR"].tolist() == [1, 1 / 4]
    assert values["RR@3"].tolist() == [1, 0]
    assert values["R@2"].tolist() == pytest.approx([2 / 3, 0])
    assert values["Success@2"].tolist() == [1, 0]
    assert values["RankDistance"].tolist() == [4, 0]
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert values["nDCG@4"].tolist() == pytest.approx([(1 + 1 / np.log2(3)) / ideal, 1 / np.log2(5)])


def test_grades_and_missing_documents_by_hand() -> None:
    values = measure(
        ["nDCG@3", "AP", "R@3", "RR", "RankDistance"],
        [[3, 1, NOT_RETRIEVED], [NOT_RETRIEVED, 0, 0]],
        [[1, 2, 4], [1, 0, 0]],
    )
    ideal = 4 + 2 / np.log2(3) + 1 / 2
    assert values["nDCG@3"].tolist() == pytest.approx([(2 + 1 / 2) / ideal, 0])
    assert values["AP"].tolist() == pytest.approx([(1 + 2 / 3) / 3, 0])
    assert values["R@3"].tolist() == pytest.approx([2 / 3, 0])
    assert values["RR"].tolist() == [1, 0]
    assert values["RankDistance"].tolist() == [2, pytest.approx(np.nan, nan_ok=True)]
    for grades in ([[0]], [[0.5]]):
        with pytest.raises(TaskError) as error:
            measure(["nDCG"], [[1]], grades)
        assert error.value.code == "INVALID_RANKS"


def test_the_cutoffs_that_benchmarks_are_known_by() -> None:
    values = measure(["AP@20", "RR@20", "R@100"], [[20, 101], [21, 100]])
    assert values["AP@20"].tolist() == [1 / 20 / 2, 0]
    assert values["RR@20"].tolist() == [1 / 20, 0]
    assert values["R@100"].tolist() == [0.5, 1]


def test_no_queries_give_no_values() -> None:
    assert measure(["AP", "RankDistance", "nDCG@10"], np.zeros((0, 3), dtype=np.int64))["nDCG@10"].shape == (0,)


def test_names_and_their_aliases() -> None:
    assert [parse_measure(name) for name in ("AP", "MAP", "NDCG@10", "Recall@3", "RankDistance")] == [
        ("AP", 0), ("AP", 0), ("nDCG", 10), ("R", 3), ("RankDistance", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["foo", "R@x", "R", "Success", "P@5", "AP(rel=2)", "ERR@10", "RankDistance@5", ""])
def test_names_of_other_measures_are_refused(name: str) -> None:
    with pytest.raises(TaskError) as error:
        parse_measure(name)
    assert error.value.code == "UNKNOWN_MEASURE"


def test_other_values_than_ranks_are_refused() -> None:
    for ranks in ([[1, 0], [0, 0]], [[1, -1]], [[1.0, 2.0]], [1, 2]):
        with pytest.raises(TaskError) as error:
            measure(["AP"], ranks)
        assert error.value.code == "INVALID_RANKS"


def test_ranks_from_a_score_matrix() -> None:
    scores = [[0.5, 0.9, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0], [4.0, 3.0, 2.0, 1.0]]
    relevant = [[True, False, True, False], [False, True, False, False], [False, False, False, False]]
    # Of equal scores the later document comes first.
    assert relevant_ranks(scores, relevant).tolist() == [[2, 3], [3, 0], [0, 0]]
    assert relevant_ranks(np.zeros((0, 4)), np.zeros((0, 4), bool)).shape == (0, 0)
