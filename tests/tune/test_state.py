"""The state of a search follows from its events, wherever writing them was interrupted; seed groups follow from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.storage import write_json_lines
from hbt_ray.tune.search_state import EVENTS, OTHER_DEV_SET, SearchState, Status, Trial, ranked_groups, seed_groups


def session(time: float) -> dict[str, Any]:
    return {"event": "session", "time": time}


def event(kind: str, time: float, trial: str = "a", **more: Any) -> dict[str, Any]:
    about = {"trial": trial, "name": f"alpha-{trial}", "values": {"alpha": 0.5, "seed": 0}, "steps": 20, "gpus": 2.0}
    return {"event": kind, "time": time, **about, **more}


def row(time: float, step: int, ap: float, trial: str = "a") -> dict[str, Any]:
    return event("row", time, trial, row={"step": step, "AP": ap})


def state_of(folder: Path, *events: dict[str, Any], torn: str = "") -> SearchState:
    write_json_lines(folder / EVENTS, events, checked=True)
    with (folder / EVENTS).open("a") as file:
        file.write(torn)
    return SearchState.load(folder)


def test_a_search_that_has_not_begun_has_no_trials(tmp_path: Path) -> None:
    assert SearchState.load(tmp_path) == SearchState([])


def test_a_trial_is_told_from_start_to_end(tmp_path: Path) -> None:
    state = state_of(
        tmp_path, session(100), event("started", 110), row(130, 10, 0.4), row(150, 20, 0.3), event("finished", 160)
    )
    (trial,) = state.finished
    assert (trial.name, trial.steps, trial.step, trial.attempts) == ("alpha-a", 20, 20, 1)
    assert (trial.last("AP"), trial.last("pool_loss")) == (0.3, None)
    assert (trial.seconds, state.seconds, state.last, state.steps) == (50, 60, 160, 20)
    assert state.gpu_hours(now=10_000) == pytest.approx(2 * 50 / 3600)  # It does not run any more.


def test_a_trial_that_was_measured_before_the_dev_store_was_replaced_is_not_compared(tmp_path: Path) -> None:
    events = [session(0)]
    # Trials b and c differ in the languages that they are measured in, as those of the space `transfer`.
    for time, (trial, ap, pool) in enumerate([("a", 0.9, "old-ar"), ("b", 0.4, "new-ar"), ("c", 0.5, "new-tr")]):
        events += [
            event("started", time, trial),
            {**row(time, 20, ap, trial), "dev_set": pool},
            event("finished", time, trial),
        ]
    state = state_of(tmp_path, *events)
    best = state.best("AP")
    assert best is not None
    assert best.trial_id == "c"
    assert [trial.trial_id for trial in state.front(["AP"])] == ["c"]
    assert {trial.trial_id: trial.error for trial in state.trials if trial.status == "failed"} == {"a": OTHER_DEV_SET}


def test_a_failed_trial_that_finishes_in_a_later_session_is_finished_without_an_error(tmp_path: Path) -> None:
    failed = [session(0), event("started", 1), event("failed", 5, error="StorageError: No space left on device")]
    (trial,) = state_of(tmp_path, *failed, session(10)).trials
    assert (trial.status, bool(trial.error)) == ("failed", True)
    again = [session(10), event("started", 11), row(20, 20, 0.5), event("finished", 21)]
    (trial,) = state_of(tmp_path, *failed, *again).trials
    assert (trial.status, trial.error, trial.attempts) == ("finished", "", 2)


def test_equal_trials_of_one_session_are_both_kept(tmp_path: Path) -> None:
    failed = [session(0), event("started", 1), event("failed", 5, error="NonFiniteLoss")]
    both = state_of(tmp_path, *failed, event("started", 6, "b"), event("finished", 9, "b")).trials
    assert [trial.status for trial in both] == ["failed", "finished"]
    resumed = [session(10), event("started", 11, "b"), event("started", 12), event("failed", 15, error="again")]
    assert [trial.attempts for trial in state_of(tmp_path, *failed, *resumed).trials] == [2, 1]


def test_a_trial_that_runs_costs_until_now(tmp_path: Path) -> None:
    state = state_of(tmp_path, session(0), event("started", 100), row(150, 10, 0.4))
    (trial,) = state.trials
    assert trial.status == "running"
    assert trial.seconds_until(250) == 150
    assert state.gpu_hours(now=250) == pytest.approx(2 * 150 / 3600)


def test_the_time_between_a_drivers_death_and_the_next_session_counts_for_nothing(tmp_path: Path) -> None:
    state = state_of(
        tmp_path,
        session(100), event("started", 110), row(130, 10, 0.4),  # The driver dies.
        session(5000), event("started", 5010), row(5030, 20, 0.6), event("finished", 5030),
    )  # fmt: skip
    (trial,) = state.trials
    assert trial.seconds == (130 - 110) + (5030 - 5010)
    assert trial.attempts == 2
    assert state.seconds == (130 - 100) + (5030 - 5000)
    assert sorted(trial.rows) == [10, 20]


def test_what_ran_under_a_dead_driver_costs_nothing_until_it_is_started_again(tmp_path: Path) -> None:
    (trial,) = state_of(tmp_path, session(100), event("started", 110), row(130, 10, 0.4), session(5000)).trials
    assert trial.seconds_until(9000) == 20


def test_half_a_line_at_the_end_is_passed_over(tmp_path: Path) -> None:
    whole = (session(100), event("started", 110), row(130, 10, 0.4))
    torn = json.dumps(event("finished", 140))[:40]
    assert state_of(tmp_path, *whole, torn=torn) == state_of(tmp_path, *whole)


def test_failures_keep_their_cause_and_a_retry_brings_the_trial_back(tmp_path: Path) -> None:
    events = (session(0), event("started", 1), event("failed", 5, error="StreamError: no store"))
    (failed,) = state_of(tmp_path, *events).trials
    assert (failed.status, failed.error, failed.seconds) == ("failed", "StreamError: no store", 4)
    (again,) = state_of(tmp_path, *events, event("started", 10), row(20, 20, 0.5), event("finished", 21)).trials
    assert (again.status, again.attempts, again.seconds) == ("finished", 2, 15)


def test_steps_become_known_and_values_change_under_a_population(tmp_path: Path) -> None:
    changed = {"alpha": 0.7, "seed": 0}
    (trial,) = state_of(
        tmp_path, session(0), event("started", 1, steps=0), event("started", 2, values=changed), row(3, 10, 0.5)
    ).trials
    assert trial.steps == 20
    (trial,) = state_of(tmp_path, session(0), event("started", 1), event("started", 2, steps=0, values=changed)).trials
    assert (trial.steps, trial.values) == (20, changed)


def finished(name: str, **measures: float) -> Trial:
    return Trial(name, name, {"alpha": name}, 20, status="finished", rows={20: measures})


def test_the_front_is_of_finished_trials_that_none_surpasses() -> None:
    trials = [
        finished("precise", AP=0.6, RankDistance=50),
        finished("fair", AP=0.5, RankDistance=30),
        finished("twin", AP=0.5, RankDistance=30),
        finished("surpassed", AP=0.5, RankDistance=31),
        finished("unmeasured", AP=0.9),
    ]
    stopped = finished("stopped", AP=1.0, RankDistance=1)
    stopped.status = "stopped"
    state = SearchState([*trials, stopped])
    assert [trial.name for trial in state.front(("AP", "RankDistance"))] == ["precise", "fair", "twin"]
    assert [trial.name for trial in state.front(("AP",))] == ["unmeasured"]


def test_the_best_is_by_the_last_step_and_in_the_objectives_own_sense() -> None:
    early = finished("early", AP=0.4, RankDistance=30)
    early.rows[10] = {"AP": 0.9}
    state = SearchState([early, finished("late", AP=0.5, RankDistance=40)])
    best = [state.best(name) for name in ("AP", "RankDistance", "pool_loss")]
    assert [trial and trial.name for trial in best] == ["late", "early", None]


def test_a_group_leaves_out_the_seed_and_takes_nested_values() -> None:
    stages = {"stages": [{"alpha": 0.5, "from_step": 0}]}
    one, two = (Trial(name, name, {"alpha": stages, "seed": seed}, 20) for seed, name in enumerate("ab"))
    other = Trial("c", "c", {"alpha": {"stages": []}, "seed": 0}, 20)
    assert one.group == two.group
    assert len({one.group, two.group, other.group}) == 2


# ---- seed groups


def seeded(values: dict[str, Any], status: Status = "finished", **measures: float) -> Trial:
    name = repr(values)
    return Trial(name, name, values, 20, status=status, rows={10: {"AP": 0.9}, 20: measures})


def test_the_interval_is_students_as_tables_have_it() -> None:
    estimate = SeedInterval.from_values([0.50, 0.52, 0.57])
    half = 4.302653 * math.sqrt(0.0013 / 3)  # t(.975, 2 degrees); the sample variance is .0013
    assert estimate.mean == pytest.approx(0.53)
    assert estimate.interval == pytest.approx((0.53 - half, 0.53 + half))


def test_one_seed_has_no_interval_and_equal_seeds_have_one_without_width() -> None:
    assert SeedInterval.from_values([0.5]).interval is None
    assert SeedInterval.from_values([0.5, 0.5]).interval == (0.5, 0.5)


def test_overlap_is_unknown_without_an_interval() -> None:
    narrow, wide, far = (
        SeedInterval.from_values([0.50, 0.51]),
        SeedInterval.from_values([0.5, 0.6]),
        SeedInterval.from_values([0.90, 0.91]),
    )
    assert narrow.overlaps(wide) is True
    assert narrow.overlaps(far) is far.overlaps(narrow) is False
    assert narrow.overlaps(SeedInterval.from_values([0.5])) is None


def test_groups_hold_finished_trials_alone_and_are_in_the_order_of_numbers() -> None:
    state = SearchState(
        [
            seeded({"alpha": 1, "seed": 0}, AP=0.4),
            seeded({"alpha": 0.5, "seed": 0}, AP=0.5),
            seeded({"alpha": 0.5, "seed": 1}, AP=0.6),
            seeded({"alpha": 0.5, "seed": 2}, "stopped", AP=0.1),
            seeded({"alpha": 0.25, "seed": 0}, "failed"),
        ]
    )
    half, one = seed_groups(state, "alpha")
    assert (half.values, one.values) == ({"alpha": 0.5}, {"alpha": 1})
    groups = half.estimate("AP")
    assert groups is not None
    assert groups.values == (0.5, 0.6)  # At the last step; the earlier one was better.
    assert half.estimate("RankDistance") is None


def test_groups_of_other_values_stay_as_they_began() -> None:
    state = SearchState([seeded({"policy": {"kind": name}}, AP=0.5) for name in ("mono", "cross", "mono")])
    groups = seed_groups(state, "policy")
    assert [group.values["policy"]["kind"] for group in groups] == ["mono", "cross"]
    assert len(groups[0].trials) == 2


def test_the_best_is_the_lowest_where_lower_is_better_and_what_is_not_finite_counts_for_nothing() -> None:
    state = SearchState(
        [
            seeded({"alpha": 0}, RankDistance=40.0, AP=0.4),
            seeded({"alpha": 1}, RankDistance=30.0, AP=math.nan),
            seeded({"alpha": 2}, RankDistance=50.0, AP=0.6),
        ]
    )
    groups = seed_groups(state, "alpha")
    assert [group.values["alpha"] for group, _ in ranked_groups(groups, "RankDistance")] == [1, 0, 2]
    assert [group.values["alpha"] for group, _ in ranked_groups(groups, "AP")] == [2, 0]
