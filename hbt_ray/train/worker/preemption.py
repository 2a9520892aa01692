"""Preemption: a node that is about to be taken away announces it, and a run that reacts loses no step.

Clouds announce the end of a spot instance 30 to 120 s before; Ray shows it as a draining node with a deadline. The
ranks poll every few seconds, after the same step. At the first notice they make a checkpoint and continue; shortly
before the deadline they make another one and wait, until Ray Train starts them again on the nodes that are left.

Polling takes two small collectives through an actor (together about 5 ms where this was measured), so it is not done at
every step: rank 0 counts how many steps take five seconds and broadcasts the next step to poll after. No clock enters
the training data.
"""

from __future__ import annotations

import os
import time
from enum import Enum

import ray.train
from ray.train.collective import broadcast_from_rank_zero

POLL_SECONDS = 5.0
"""Time between two polls, the same as Ray's own."""
MARGIN_SECONDS = 5.0
"""Safety margin subtracted from the announced deadline."""
_GIVE_UP_SECONDS = 60.0
"""A node that still exists so long after its deadline was not taken away."""


class PreemptionAction(Enum):
    """Action of all ranks after a step."""

    CONTINUE = "continue"
    SAVE = "save, then continue"
    HOLD = "save, then wait for the end"


def choose_action(
    seconds_left: float | None, *, saved: bool, save_seconds: float, step_seconds: float
) -> PreemptionAction:
    """Choose the action after a preemption notice.

    Args:
        seconds_left: time to the deadline; None if it is unknown, so that any poll may be the last.
        saved: a checkpoint was made because of this notice.
        save_seconds: duration of the last such checkpoint; 0 if unknown.
        step_seconds: duration of a step.
    """
    if seconds_left is None:
        return PreemptionAction.SAVE
    # At the next poll it would be too late: steps until then, the step in progress, and the checkpoint, twice as slow.
    if seconds_left < max(POLL_SECONDS, step_seconds) + step_seconds + 2 * save_seconds + MARGIN_SECONDS:
        return PreemptionAction.HOLD
    return PreemptionAction.CONTINUE if saved else PreemptionAction.SAVE


def next_poll_step(step: int, step_seconds: float) -> int:
    """The step after which to poll again."""
    return step + max(1, int(POLL_SECONDS / max(step_seconds, 1e-6)))


class PreemptionMonitor:
    """Preemption monitor of one rank. `poll` is collective: all ranks must call it after the same steps."""

    def __init__(self, rank: int, start_step: int) -> None:
        # Without Ray's watcher there is never a notice.
        self._enabled = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
        self._is_rank_zero = rank == 0
        self._last_poll, self._last_poll_time, self._next_poll = start_step, time.monotonic(), start_step + 1
        self._saved, self._save_seconds = False, 0.0
        self.deadline: float | None = None
        """Announced end of the node, in seconds since the epoch; None if unknown or not announced."""

    def poll(self, step: int) -> PreemptionAction:
        """Action after `step` steps; equal on all ranks."""
        if not self._enabled or step < self._next_poll:
            return PreemptionAction.CONTINUE
        info = ray.train.get_preemption_info()  # A barrier of all ranks.
        if info is not None and info.deadline_ms is not None:
            self.deadline = info.deadline_ms / 1e3
        action: PreemptionAction
        # Rank 0 decides for all: clocks and durations of steps differ between ranks.
        decision = self._decide(step, noticed=info is not None) if self._is_rank_zero else None
        action, self._next_poll = broadcast_from_rank_zero(decision)
        return action

    def mark_saved(self, seconds: float) -> None:
        """Record that the checkpoint after a notice was made and took `seconds`."""
        self._saved, self._save_seconds = True, seconds

    def wait(self, grace_seconds: float) -> None:
        """Wait until Ray Train ends this process; return a minute after deadline and grace if it does not."""
        time.sleep(max(0.0, (self.deadline or 0.0) - time.time()) + grace_seconds + _GIVE_UP_SECONDS)

    def _decide(self, step: int, *, noticed: bool) -> tuple[PreemptionAction, int]:
        """Action after this step, and the step after which the ranks poll again."""
        now = time.monotonic()
        step_seconds = (now - self._last_poll_time) / max(1, step - self._last_poll)
        self._last_poll, self._last_poll_time = step, now
        next_poll = next_poll_step(step, step_seconds)
        if not noticed:
            return PreemptionAction.CONTINUE, next_poll
        seconds_left = None if self.deadline is None else self.deadline - time.time()
        action = choose_action(
            seconds_left, saved=self._saved, save_seconds=self._save_seconds, step_seconds=step_seconds
        )
        return action, next_poll
