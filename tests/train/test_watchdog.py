"""The watchdog reports place a rank is stuck, and ends the process whatever happens to the report."""

from __future__ import annotations

import threading

import pytest

from hbt_ray.train.driver.metrics_actor import MetricsActor
from hbt_ray.train.worker.watchdog import Watchdog


def test_a_stuck_rank_reports_where_and_exits_after_it() -> None:
    reports: list[tuple[int, str]] = []
    exited = threading.Event()
    watchdog = Watchdog(0.05, lambda step, place: reports.append((step, place)), exited.set)
    watchdog.start(6)
    watchdog.start(7)
    assert exited.wait(60)
    assert [step for step, _ in reports] == [7]
    assert "threading.py" in reports[0][1]
    assert reports[0][1].endswith("in wait")


def test_no_time_runs_while_paused() -> None:
    exited = threading.Event()
    watchdog = Watchdog(0.05, lambda step, place: None, exited.set)
    watchdog.start(1)
    watchdog.pause()
    assert not exited.wait(0.5)


def test_a_rank_whose_report_fails_exits_too(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(step: int, place: str) -> None:
        raise TimeoutError

    exited = threading.Event()
    Watchdog(0.05, refuse, exited.set).start(1)
    assert exited.wait(60)
    assert "step 1 was stuck at" in caplog.text


def test_ranks_one_step_apart_are_one_stall_until_a_step_is_done() -> None:
    actor = MetricsActor()
    actor.add_stall(1, 17, "stuck.py:3 in stall")
    actor.add_stall(0, 18, "all_gather")
    assert actor.last_stall() == (17, {1: "stuck.py:3 in stall", 0: "all_gather"})
    actor.add({"step": 17})
    assert actor.last_stall() is None
