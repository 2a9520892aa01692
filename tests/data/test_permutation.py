"""Keyed randomness: permutations are permutations, and even."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.index.permutation import make_key, permute, uniform


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(key, np.arange(size), size).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**k + d for k in (4, 9, 16) for d in (-1, 0, 1)] + [7, 97, 65_521])
def test_permute_around_powers_of_two_and_at_primes(size: int) -> None:
    assert np.unique(permute(3, np.arange(size), size)).size == size


def test_permute_gives_any_element_by_itself() -> None:
    whole = permute(9, np.arange(1000), 1000)
    assert [int(permute(9, np.array([place]), 1000)[0]) for place in (0, 17, 999)] == whole[[0, 17, 999]].tolist()


def test_all_orders_of_four_are_about_as_frequent() -> None:
    counts = Counter(tuple(permute(make_key(seed), np.arange(4), 4).tolist()) for seed in range(12_000))
    assert len(counts) == 24
    assert max(abs(count - 500) for count in counts.values()) < 5 * 500**0.5  # Five standard deviations.


def test_neighbours_do_not_stay_neighbours() -> None:
    order = permute(1, np.arange(100_000), 100_000)
    assert (np.abs(np.diff(order)) == 1).mean() < 1e-3


def test_billions_of_elements_need_no_storage() -> None:
    places = np.array([0, 10**9, 10**12 - 1])
    found = permute(5, places, 10**12)
    assert ((found >= 0) & (found < 10**12)).all()
    assert len(set(found.tolist())) == 3


def test_uniform_is_uniform_and_repeatable() -> None:
    numbers = uniform(4, np.arange(100_000))
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # Chi-squared with 19 degrees: beyond 1 in 10,000.
    assert np.array_equal(numbers, uniform(4, np.arange(100_000)))
    assert not np.array_equal(numbers, uniform(5, np.arange(100_000)))


def test_keys_are_the_same_on_every_machine() -> None:
    assert make_key("walk", 3, "de") == 17_071_385_581_045_826_907
    assert make_key("a", "b") != make_key("ab")
