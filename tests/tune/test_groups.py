"""Groups are trials that differ by the seed alone; their intervals are Student's."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.tune.seed_groups import ranked, seed_groups
from hbt_ray.tune.state import SearchState, Status, Trial


def trial(values: dict[str, Any], status: Status = "finished", **measures: float) -> Trial:
    name = repr(values)
    return Trial(name, name, values, 20, status=status, rows={10: {"AP": 0.9}, 20: measures})


def test_the_interval_is_students_as_tables_have_it() -> None:
    estimate = SeedInterval.of([0.50, 0.52, 0.57])
    half = 4.302653 * math.sqrt(0.0013 / 3)  # t(.975, 2 degrees); the sample variance is .0013
    assert estimate.mean == pytest.approx(0.53)
    assert estimate.interval == pytest.approx((0.53 - half, 0.53 + half))


def test_one_seed_has_no_interval_and_equal_seeds_have_one_without_width() -> None:
    assert SeedInterval.of([0.5]).interval is None
    assert SeedInterval.of([0.5, 0.5]).interval == (0.5, 0.5)


def test_overlap_is_unknown_without_an_interval() -> None:
    narrow, wide, far = SeedInterval.of([0.50, 0.51]), SeedInterval.of([0.5, 0.6]), SeedInterval.of([0.90, 0.91])
    assert narrow.overlaps(wide) is True
    assert narrow.overlaps(far) is far.overlaps(narrow) is False
    assert narrow.overlaps(SeedInterval.of([0.5])) is None


def test_groups_hold_finished_trials_alone_and_are_in_the_order_of_numbers() -> None:
    board = SearchState(
        [
            trial({"alpha": 1, "seed": 0}, AP=0.4),
            trial({"alpha": 0.5, "seed": 0}, AP=0.5),
            trial({"alpha": 0.5, "seed": 1}, AP=0.6),
            trial({"alpha": 0.5, "seed": 2}, "stopped", AP=0.1),
            trial({"alpha": 0.25, "seed": 0}, "failed"),
        ]
    )
    half, one = seed_groups(board, "alpha")
    assert (half.values, one.values) == ({"alpha": 0.5}, {"alpha": 1})
    found = half.estimate("AP")
    assert found is not None
    assert found.values == (0.5, 0.6)  # At the last step; the earlier one was better.
    assert half.estimate("RankDistance") is None


def test_groups_of_other_values_stay_as_they_began() -> None:
    board = SearchState([trial({"policy": {"kind": name}}, AP=0.5) for name in ("mono", "cross", "mono")])
    found = seed_groups(board, "policy")
    assert [group.values["policy"]["kind"] for group in found] == ["mono", "cross"]
    assert len(found[0].trials) == 2


def test_the_best_is_the_lowest_where_lower_is_better_and_what_is_not_finite_counts_for_nothing() -> None:
    board = SearchState(
        [
            trial({"alpha": 0}, RankDistance=40.0, AP=0.4),
            trial({"alpha": 1}, RankDistance=30.0, AP=math.nan),
            trial({"alpha": 2}, RankDistance=50.0, AP=0.6),
        ]
    )
    found = seed_groups(board, "alpha")
    assert [group.values["alpha"] for group, _ in ranked(found, "RankDistance")] == [1, 0, 2]
    assert [group.values["alpha"] for group, _ in ranked(found, "AP")] == [2, 0]
