"""Early stopping depends only on steps and their measures, not on when a result arrives."""

from __future__ import annotations

import pytest

from hbt_ray.train.validation.config import (
    EarlyStoppingState,
    ValidationConfig,
    ValidationSchedule,
    early_stopping_state,
)

HIGHER = ValidationConfig(measure="AP", patience=2)
LOWER = ValidationConfig(measure="pool_loss", patience=2)
LOWER_BY_HALF = ValidationConfig(measure="pool_loss", patience=2, min_delta=0.5)


@pytest.mark.parametrize(
    ("values", "config", "expected"),
    [
        ({}, HIGHER, EarlyStoppingState()),
        ({100: 0.1}, HIGHER, EarlyStoppingState(100)),
        ({100: 0.1, 200: 0.2, 300: 0.3}, HIGHER, EarlyStoppingState(300)),
        ({100: 0.1, 200: 0.3, 300: 0.2}, HIGHER, EarlyStoppingState(200, 1)),
        ({100: 0.1, 200: 0.3, 300: 0.2, 400: 0.2}, HIGHER, EarlyStoppingState(200, 2, stop=True)),
        ({100: 0.1, 200: 0.3, 300: 0.2, 400: 0.4}, HIGHER, EarlyStoppingState(400)),
        ({400: 0.1, 100: 0.3, 200: 0.2}, HIGHER, EarlyStoppingState(100, 2, stop=True)),
        ({100: 0.3, 200: 0.3, 300: 0.3}, HIGHER, EarlyStoppingState(100, 2, stop=True)),
        ({100: 2.0, 200: 1.0, 300: 1.5}, LOWER, EarlyStoppingState(200, 1)),
        ({100: 2.0, 200: 1.9, 300: 1.8}, LOWER_BY_HALF, EarlyStoppingState(300, 2, stop=True)),
        ({100: 2.0, 200: 1.75, 300: 1.5}, LOWER_BY_HALF, EarlyStoppingState(300)),
        ({100: 0.3, 200: 0.2, 300: 0.1}, ValidationConfig(), EarlyStoppingState(100, 2)),
    ],
)
def test_early_stopping_state(values: dict[int, float], config: ValidationConfig, expected: EarlyStoppingState) -> None:
    assert early_stopping_state(values, config) == expected


def test_a_decision_sees_results_up_to_its_lag_and_on_the_grid_only() -> None:
    arrived = {100: 0.1, 150: 0.9, 200: 0.2, 300: 0.3, 400: 0.4}
    for lag, seen in ((0, [100, 200, 300]), (1, [100, 200]), (2, [100]), (3, []), (9, [])):
        for step in (300, 350, 399):
            assert list(ValidationSchedule(100, 1_000, lag).visible(arrived, step)) == seen
    plan = ValidationSchedule(100, 950)
    assert [step for step in (0, 50, 100, 900, 950, 1_000) if plan.due(step)] == [100, 900, 950, 1_000]


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_run_stops_at_the_same_step_however_late_results_come_and_wherever_it_resumes(lag: int) -> None:
    values = {100: 0.1, 200: 0.5, 300: 0.4, 400: 0.45, 500: 0.7, 600: 0.6, 700: 0.6, 800: 0.9}
    plan = ValidationSchedule(100, 800, lag)

    def stops(known: dict[int, float], step: int) -> bool:
        return early_stopping_state(plan.visible(known, step), HIGHER).stop

    steps = range(100, 900, 100)
    first = [step for step in steps if stops({at: v for at, v in values.items() if at <= step - 100 * lag}, step)]
    assert first == [step for step in steps if stops(values, step)]
    assert first[0] == 400 + 100 * lag
