"""Interleaving: the stated bounds hold in every window, and random access agrees with playing from the start."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.data.plan.interleave import Interleaving

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40)


def _play(interleaving: Interleaving, num_turns: int) -> np.ndarray:
    return np.array([interleaving.locate(turn)[0] for turn in range(num_turns)])


def _worst_window_error(choices: np.ndarray, choice: int, share: float) -> float:
    """Largest |count - share · length| over all windows: the spread of the prefix errors."""
    errors = np.concatenate([[0.0], np.cumsum((choices == choice) - share)])
    return float(errors.max() - errors.min())


@given(share=st.floats(0, 1), key=st.integers(0, 2**64 - 1))
def test_two_choices_are_off_by_less_than_one_in_every_window(share: float, key: int) -> None:
    choices = _play(Interleaving([Fraction(share), 1 - Fraction(share)], key), 400)
    assert _worst_window_error(choices, 0, share) < 1 + 1e-9


@given(weights=WEIGHTS, key=st.integers(0, 2**64 - 1))
@settings(max_examples=60)
def test_many_choices_are_off_by_less_than_four_in_every_window(weights: list[float], key: int) -> None:
    choices = _play(Interleaving(weights, key), 600)
    for choice, weight in enumerate(weights):
        assert _worst_window_error(choices, choice, weight / sum(weights)) < 4


@given(weights=WEIGHTS, key=st.integers(0, 2**64 - 1))
@settings(max_examples=15, deadline=None)
def test_occurrences_count_the_earlier_turns_of_the_same_choice(weights: list[float], key: int) -> None:
    interleaving, seen = Interleaving(weights, key), Counter[int]()
    for turn in range(200):
        choice, occurrence = interleaving.locate(turn)
        assert occurrence == seen[choice]
        seen[choice] += 1


def test_random_access_far_out() -> None:
    interleaving, turn = Interleaving([1, 2, 3], key=1), 10**7
    choice, occurrence = interleaving.locate(turn)
    assert abs(occurrence - turn * (choice + 1) / 6) < 4
    assert interleaving.locate(turn) == (choice, occurrence)


def test_a_choice_of_weight_zero_is_never_taken() -> None:
    assert set(_play(Interleaving([0.0, 1.0, 0.0, 2.0], 3), 300).tolist()) == {1, 3}


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one choice"):
        Interleaving([0.0], 1)


def test_another_key_is_another_phase() -> None:
    plays = {tuple(_play(Interleaving([1.0] * 11, key), 22).tolist()) for key in range(20)}
    assert len(plays) > 10
