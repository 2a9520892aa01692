"""The notice: a node that is about to be taken away says so beforehand, and a run that heeds it loses no step.

Clouds announce the end of a spot instance 30 to 120 s before; Ray knows of it as a draining node with a deadline. The
ranks ask every few seconds, after the same step. On the first notice they make a checkpoint at once and go on; shortly
before the deadline they make another one and hold still, until Ray Train starts them again on the nodes that are left.

To ask is two small collectives through an actor (about 5 ms together where this was measured), so nobody asks at every
step: rank 0 counts how many steps take five seconds and tells the others. No clock enters what is trained on.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import NamedTuple

import ray.train
from ray.train.collective import broadcast_from_rank_zero

ASK_SECONDS = 5.0
"""Between two questions. Ray itself looks as often."""
SLACK_SECONDS = 5.0
"""What the deadline is taken to be too late."""


class PreemptionAction(Enum):
    """What all ranks do after the step."""

    GO_ON = "go on"
    SAVE = "save, go on"
    HOLD = "save, then wait for the end"


class Heard(NamedTuple):
    """What rank 0 tells the others."""

    answer: PreemptionAction
    ask_at: int
    """The step after which they ask again."""


def answer(left: float | None, *, saved: bool, saving: float, step_seconds: float) -> PreemptionAction:
    """What to do about a notice.

    Args:
        left: seconds to the deadline; None where none is known, so that every question may be the last.
        saved: there was a checkpoint because of this notice.
        saving: seconds that one takes, as far as is known.
        step_seconds: what a step takes.
    """
    if left is None:
        return PreemptionAction.SAVE
    # A question later it would be too late for the steps up to there and for their checkpoint.
    if left < max(ASK_SECONDS, step_seconds) + step_seconds + 2 * saving + SLACK_SECONDS:
        return PreemptionAction.HOLD
    return PreemptionAction.GO_ON if saved else PreemptionAction.SAVE


def ask_after(step: int, step_seconds: float) -> int:
    """The step after which to ask again."""
    return step + max(1, int(ASK_SECONDS / max(step_seconds, 1e-6)))


class PreemptionMonitor:
    """One rank's ear; all ranks call `heed` after the same steps.

    Args:
        start: the step that training goes on with.
    """

    def __init__(self, rank: int, start: int) -> None:
        # Without Ray's watcher there is never anything to hear.
        self._listens = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
        self._is_first = rank == 0
        self._asked_at, self._ask_at, self._since = start, start + 1, time.monotonic()
        self._saved, self._saving = False, 0.0
        self.deadline: float | None = None
        """When the node goes, in seconds of the system's clock; None if unknown or not announced."""

    def heed(self, step: int) -> PreemptionAction:
        """What to do after `step` steps, equal on all ranks."""
        if not self._listens or step < self._ask_at:
            return PreemptionAction.GO_ON
        info = ray.train.get_preemption_info()
        if info is not None and info.deadline_ms is not None:
            self.deadline = info.deadline_ms / 1e3
        heard: Heard = broadcast_from_rank_zero(self._judge(step, noticed=info is not None) if self._is_first else None)
        self._ask_at = heard.ask_at
        return heard.answer

    def saved(self, seconds: float) -> None:
        """The checkpoint that `heed` asked for was made, in so many seconds."""
        self._saved, self._saving = True, seconds

    def wait(self, grace: float) -> None:
        """Hold still until Ray Train ends this process.

        Should it not, after a minute more than the deadline and the grace, the notice was no true one.
        """
        time.sleep(max(0.0, (self.deadline or 0.0) - time.time()) + grace + 60)

    def _judge(self, step: int, *, noticed: bool) -> Heard:
        now = time.monotonic()
        step_seconds = (now - self._since) / max(1, step - self._asked_at)
        self._asked_at, self._since = step, now
        ask_at = ask_after(step, step_seconds)
        if not noticed:
            return Heard(PreemptionAction.GO_ON, ask_at)
        left = None if self.deadline is None else self.deadline - time.time()
        return Heard(answer(left, saved=self._saved, saving=self._saving, step_seconds=step_seconds), ask_at)
