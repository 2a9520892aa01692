"""What a rank that is stuck says, and that it ends whatever happens to its words."""

from __future__ import annotations

import threading

import pytest

from hbt_ray.train.driver.metrics_actor import MetricsActor
from hbt_ray.train.worker.watchdog import Watchdog


def test_a_stuck_rank_says_where_and_ends_after_it() -> None:
    said: list[tuple[int, str]] = []
    ended = threading.Event()
    deadline = Watchdog(0.05, lambda step, where: said.append((step, where)), ended.set)
    deadline.start(6)
    deadline.start(7)
    assert ended.wait(60)
    assert [step for step, _ in said] == [7]
    assert "threading.py" in said[0][1]
    assert said[0][1].endswith("in wait")


def test_no_time_runs_while_it_rests() -> None:
    ended = threading.Event()
    deadline = Watchdog(0.05, lambda step, where: None, ended.set)
    deadline.start(1)
    deadline.pause()
    assert not ended.wait(0.5)


def test_a_rank_that_cannot_say_it_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(step: int, where: str) -> None:
        raise TimeoutError

    ended = threading.Event()
    Watchdog(0.05, refuse, ended.set).start(1)
    assert ended.wait(60)
    assert "step 1 was stuck at" in caplog.text


def test_ranks_one_step_apart_are_one_stall_until_a_step_is_done() -> None:
    actor = MetricsActor()
    actor.add_stall(1, 17, "stuck.py:3 in stall")
    actor.add_stall(0, 18, "all_gather")
    assert actor.last_stall() == (17, {1: "stuck.py:3 in stall", 0: "all_gather"})
    actor.add({"step": 17})
    assert actor.last_stall() is None
