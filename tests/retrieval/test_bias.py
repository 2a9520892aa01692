from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hbt_ray.errors import TaskError
from hbt_ray.retrieval import bias

LANGUAGES = ("de", "en", "th")


@st.composite
def golds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Ranks [queries, golds] in any order with 0 anywhere, and their languages, with nonsense on the padding."""
    num_queries, width = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    ranks = np.zeros((num_queries, width), dtype=np.int64)
    for row in ranks:
        row[:] = draw(st.permutations(range(1, 31)))[:width]
        row[draw(st.lists(st.integers(0, width - 1)))] = 0
    names = st.lists(st.sampled_from(LANGUAGES), min_size=width, max_size=width)
    languages = np.array([draw(names) for _ in ranks], dtype=np.str_)
    languages[ranks == 0] = "?"
    return ranks, languages


def test_max_rank_by_hand() -> None:
    ranks = np.array([[3, 1, 7], [0, 4, 0], [0, 0, 0]])
    np.testing.assert_equal(bias.max_rank(ranks), [7, 4, np.nan])


def test_own_language_first_by_hand() -> None:
    ranks = np.array([[5, 2, 9], [5, 2, 9], [5, 2, 0], [5, 0, 9], [1, 2, 3]])
    languages = np.array([["de", "en", "th"]] * 4 + [["de", "de", "de"]])
    values = bias.own_language_first(ranks, languages, ["en", "de", "th", "de", "de"])
    # The third has no gold in its own language; the last none in another.
    np.testing.assert_equal(values, [1.0, 0.0, np.nan, 1.0, np.nan])


@settings(deadline=None)  # A loaded machine takes any time.
@given(golds(), st.data())
def test_own_language_first_looks_at_the_best_relevant_document(
    given: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    ranks, languages = given
    asked = [data.draw(st.sampled_from(LANGUAGES)) for _ in ranks]
    for row, names, own, value in zip(
        ranks, languages, asked, bias.own_language_first(ranks, languages, asked), strict=True
    ):
        ordered = [name for rank, name in sorted(zip(row.tolist(), names.tolist(), strict=True)) if rank]
        if own in ordered and set(ordered) != {own}:
            assert value == (ordered[0] == own)
        else:
            assert np.isnan(value)


def test_correlation_of_rankings_by_hand() -> None:
    documents = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [4, 5, 6, 7]])
    values = bias.mean_rank_correlation(documents, ["x", "x", "y", "z"], k=3)
    # Union {0, 1, 2} in places 1 2 3 and 2 1 3: 1 - 6·2 / (3·8) = 0.5. The others have no translation.
    np.testing.assert_allclose(values, [0.5, 0.5, np.nan, np.nan])
    # The top two of 0 1 2 3 and 3 2 1 0 are opposite in all four places; to a depth of two they tie beyond it.
    both = documents[[0, 2]]
    assert bias.mean_rank_correlation(both, ["x", "x"], k=2).tolist() == pytest.approx([-1.0, -1.0])
    tied = stats.spearmanr([1, 2, 3.5, 3.5], [3.5, 3.5, 2, 1]).statistic
    assert bias.mean_rank_correlation(both[:, :2], ["x", "x"], k=2) == pytest.approx([tied, tied])


@settings(deadline=None)  # A loaded machine takes any time.
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(6, 20))
def test_correlation_of_rankings_is_scipys(seed: int, k: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    documents = np.array([rng.permutation(20)[:depth] for _ in range(7)])
    items = rng.choice(["x", "y", "z"], 7)
    values = bias.mean_rank_correlation(documents, items, k)
    for query in range(7):
        others = [other for other in np.flatnonzero(items == items[query]).tolist() if other != query]
        found = [spearman(documents[query].tolist(), documents[other].tolist(), k) for other in others]
        np.testing.assert_allclose(values[query], np.mean(found) if found else np.nan, atol=1e-12)


def spearman(one: list[int], other: list[int], k: int) -> float:
    union = sorted({*one[:k], *other[:k]})
    places = [[ranking.index(d) if d in ranking else len(ranking) for d in union] for ranking in (one, other)]
    return float(stats.spearmanr(*places).statistic)


def test_chunks_do_not_change_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    documents, items = np.array([rng.permutation(30)[:12] for _ in range(40)]), rng.integers(0, 8, 40)
    whole = bias.mean_rank_correlation(documents, items, 5)
    monkeypatch.setattr(bias, "_ELEMENTS", 1)
    np.testing.assert_allclose(bias.mean_rank_correlation(documents, items, 5), whole, rtol=1e-13)


@pytest.mark.parametrize("k", [1, 5])
def test_a_correlation_needs_two_documents_and_those_that_there_are(k: int) -> None:
    with pytest.raises(TaskError) as error:
        bias.mean_rank_correlation(np.zeros((2, 4), dtype=np.int64), ["x", "x"], k)
    assert error.value.code == "INVALID_RANKS"


def test_shares_and_their_distance_by_hand() -> None:
    languages = ["de", "en", "en", "th", "de", "en", "th", "en"]  # the pool: 1/4 1/2 1/4
    documents = np.array([[0, 4, 1, 3], [4, 0, 2, 5], [1, 2, 5, 0]])
    shares = bias.language_share(documents, languages)
    assert shares.tolist() == [[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]
    # German mean 1/2 3/8 1/8 is (1/4 + 1/8 + 1/8) / 2 from the pool, English 1/4 3/4 0 is (0 + 1/4 + 1/4) / 2.
    assert bias.share_distance(documents, languages, ["de", "de", "en"]) == pytest.approx({"de": 0.25, "en": 0.25})


def test_shares_are_counts_and_a_ranking_of_all_documents_has_no_distance() -> None:
    rng = np.random.default_rng(1)
    languages = rng.choice(LANGUAGES, 50)
    documents = np.array([rng.permutation(50) for _ in range(6)])
    for row, share in zip(documents, bias.language_share(documents[:, :9], languages), strict=True):
        counts = Counter(languages[row[:9]].tolist())
        assert share == pytest.approx([counts[language] / 9 for language in LANGUAGES])
    assert bias.share_distance(documents, languages, ["de"] * 6)["de"] == pytest.approx(0.0)


def test_a_language_that_fills_the_top_is_at_its_distance() -> None:
    """Of a pool in two equal halves, one half fills every place: half of the places would have to change."""
    assert bias.share_distance([[0, 1], [1, 0]], ["de", "de", "en", "en"], ["de", "de"]) == {"de": 0.5}


def test_other_values_than_ranks_are_refused() -> None:
    for ranks in ([[1, -1]], [[1.0, 2.0]], [1, 2]):
        with pytest.raises(TaskError) as error:
            bias.max_rank(ranks)
        assert error.value.code == "INVALID_RANKS"


def test_no_queries_give_no_values() -> None:
    none, names = np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.str_)
    assert bias.max_rank(none).shape == (0,)
    assert bias.own_language_first(none, names, []).shape == bias.mean_rank_correlation(none, [], 2).shape == (0,)
    assert bias.language_share(none, ["de", "en"]).shape == (0, 2)
