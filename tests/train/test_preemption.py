"""What ranks do about a preemption notice, without Ray."""

from __future__ import annotations

import pytest

from hbt_ray.train.worker.preemption import PreemptionAction, choose_action, next_poll_step


@pytest.mark.parametrize(
    ("left", "saved", "saving", "expected"),
    [
        (120.0, False, 0.0, PreemptionAction.SAVE),
        (120.0, True, 2.0, PreemptionAction.CONTINUE),
        (14.0, True, 2.0, PreemptionAction.HOLD),
        (14.0, False, 0.0, PreemptionAction.SAVE),
        (9.0, False, 0.0, PreemptionAction.HOLD),
        (120.0, True, 60.0, PreemptionAction.HOLD),  # So slow a storage that the next checkpoint would come too late.
        (-3.0, True, 0.0, PreemptionAction.HOLD),
        (None, False, 0.0, PreemptionAction.SAVE),
        (None, True, 2.0, PreemptionAction.SAVE),
    ],
)
def test_actions(left: float | None, saved: bool, saving: float, expected: PreemptionAction) -> None:
    assert choose_action(left, saved=saved, save_seconds=saving, step_seconds=0.5) is expected


@pytest.mark.parametrize("step_seconds", [0.01, 0.7, 4.0, 9.0])
@pytest.mark.parametrize("saving", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("notice", [45.0, 120.0])
@pytest.mark.parametrize("noticed_after", [0.0, 3.0, 9.9])
def test_the_last_checkpoint_is_there_before_the_deadline_and_no_step_comes_after_it(
    step_seconds: float, saving: float, notice: float, noticed_after: float
) -> None:
    """The ranks' loop with a clock of its own."""
    clock, step, saved, next_poll, last_saved, holding = noticed_after, 0, False, 1, 0, False
    while clock < notice and not holding:
        clock, step = clock + step_seconds, step + 1
        if step < next_poll:
            continue
        next_poll = next_poll_step(step, step_seconds)
        action = choose_action(
            notice - clock, saved=saved, save_seconds=saving if saved else 0.0, step_seconds=step_seconds
        )
        if action is not PreemptionAction.CONTINUE:
            clock, saved, last_saved = clock + saving, True, step
        holding = action is PreemptionAction.HOLD
    assert holding
    assert last_saved == step
    assert clock <= notice


def test_polls_are_seconds_apart_however_long_a_step_takes() -> None:
    assert next_poll_step(100, 0.01) == 600
    assert next_poll_step(100, 2.0) == 102
    assert next_poll_step(100, 60.0) == 101
    assert next_poll_step(0, 0.0) > 1
