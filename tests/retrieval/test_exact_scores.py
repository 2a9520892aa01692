"""Scores are sums in one order, and keys sort as score and order do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.search.exact_scores import (
    checked_vectors,
    key_orders,
    key_scores,
    pair_scores,
    ranking_keys,
    score_matrix,
)
from tests.retrieval.corpora import all_scores


def score_by_definition(query: np.ndarray, document: np.ndarray) -> np.float32:
    """One pair in plain Python, whose floats are float64: fold the right half onto the left one until one is left."""
    terms = [float(q) * float(d) for q, d in zip(query, document, strict=True)]
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        terms = [a + b for a, b in zip(terms[:half], [*terms[half:], -0.0], strict=False)]
    return np.float32(terms[0])


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_pair_scores_are_the_definition(dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Of very different sizes, so that the order of adding shows.
    queries, documents = (rng.standard_normal((2, 3, dim)) * 10.0 ** rng.integers(-9, 9, (2, 3, dim))).astype("f4")
    expected = [score_by_definition(q, d) for q, d in zip(queries, documents, strict=True)]
    assert pair_scores(queries, documents, np.arange(3), np.arange(3)).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_score_matrix_is_canonical_in_every_shape(num: int, num_documents: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries = (rng.standard_normal((num, dim)) * 10.0 ** rng.integers(-9, 9, (num, dim))).astype(np.float32)
    documents = (rng.standard_normal((num_documents, dim)) * 10.0 ** rng.integers(-9, 9, (1, dim))).astype(np.float32)
    whole = score_matrix(queries, documents)
    assert np.array_equal(whole, all_scores(queries, documents))
    some = rng.permutation(num_documents)[: num_documents // 2 + 1]
    assert np.array_equal(score_matrix(queries[:1], documents[some]), whole[:1, some])


def test_scores_between_two_floats_are_rounded_by_the_definition() -> None:
    half_step = 2.0**-24  # 1 + half_step lies in the middle between two float32 numbers
    queries = np.array([[1, half_step, 2.0**-60, -(2.0**-60)], [1, half_step, 2.0**-50, 0]], dtype=np.float32)
    documents = np.ones((1, 4), dtype=np.float32)
    assert score_matrix(queries, documents)[:, 0].tolist() == [1.0, 1.0 + 2.0**-23]
    assert [score_by_definition(query, documents[0]) for query in queries] == [1.0, 1.0 + 2.0**-23]


def test_score_matrix_does_not_inherit_the_order_in_which_blas_adds() -> None:
    rng = np.random.default_rng(0)
    # Alone, each of the four is lost beside 1; where they meet first, they lift the sum past the middle of two floats.
    terms = np.array([1, 2.0**-24] + [2.0**-54] * 4 + [0] * 58, dtype=np.float32)
    queries, documents = np.stack([rng.permutation(terms) for _ in range(300)]), np.ones((20, 64), dtype=np.float32)
    exact = all_scores(queries, documents)
    assert (exact != (queries.astype(np.float64) @ documents.T.astype(np.float64)).astype(np.float32)).any()
    assert np.array_equal(score_matrix(queries, documents), exact)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2**32 - 1)), min_size=1, max_size=30))
def test_keys_sort_by_score_then_order_and_hold_both(entries: list[tuple[float, int]]) -> None:
    scores, orders = np.array([s for s, _ in entries], np.float32), np.array([o for _, o in entries], np.int64)
    keys = ranking_keys(scores, orders)
    assert np.array_equal(key_scores(keys), scores)
    assert np.array_equal(key_orders(keys), orders)
    by_key = [entries[i] for i in np.argsort(keys, kind="stable")]
    assert by_key == sorted(entries), "-0.0 must tie with 0.0"


def test_vectors_without_meaning_are_refused() -> None:
    for value in (np.nan, np.inf, -np.inf, 1e19, 1e300):
        broken = np.ones((4, 3))
        broken[2, 1] = value
        with pytest.raises(TaskError) as error:
            checked_vectors(broken, lambda row: f"row {row}")
        assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        checked_vectors(np.ones((4, 3)), lambda row: f"row {row}", dim=5)
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        checked_vectors(np.ones(3), lambda row: f"row {row}")
    assert error.value.code == "INVALID_VECTORS"
