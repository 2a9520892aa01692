"""Real trials: whatever is stopped or killed, results are those of an undisturbed search, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle, tune
from ray._private.state import actors

from hbt_ray.cli.tune import SearchOutcome
from hbt_ray.data.plan.config import Stages
from hbt_ray.run_dir import RunDir
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import fit
from hbt_ray.train.validation.record import ValidationRecord
from hbt_ray.tune.pbt import read_lineage
from hbt_ray.tune.search import Search
from hbt_ray.tune.search_state import SearchState, trial_run
from hbt_ray.tune.space import Space
from tests.small_data import small_store
from tests.tune.sweep import ALPHAS, measured, prepared, searched

pytestmark = pytest.mark.usefixtures("ray_session")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Trials need not find the tests.


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    small_store(folder / "store")
    small_store(folder / "dev", 24)
    return folder


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    before = living() | held()  # By tests of other modules.
    yield
    end = time.monotonic() + 60  # Processes take a moment to end.
    while (left := living() | held()) - before and time.monotonic() < end:
        time.sleep(0.2)
    assert left - before == set()


def living() -> set[tuple[str, str]]:
    """Actors besides those that Ray Data keeps for a cluster: id, class."""
    names = {key: actor["ActorClassName"] for key, actor in actors().items() if actor["State"] != "DEAD"}
    return {(key, name) for key, name in names.items() if name not in ("_AutoscalingCoordinatorActor", "_StatsActor")}


def held() -> set[tuple[str, str]]:
    """Placement groups: id, bundles."""
    groups = ray.util.placement_group_table()
    return {(key, str(group["bundles"])) for key, group in groups.items() if group["state"] != "REMOVED"}


def weights(config: TrainConfig) -> dict[str, bytes]:
    """Files of the last checkpoint."""
    newest = CheckpointDirectory(config.run.checkpoints).newest()
    assert newest is not None
    return {path.name: path.read_bytes() for path in sorted(newest[0].iterdir())}


@pytest.fixture(scope="module")
def undisturbed(workspace: Path, ray_session: None) -> tuple[Search, SearchOutcome]:
    search = prepared(workspace, "undisturbed")
    return search, searched(search)


def test_a_search_measures_every_trial(undisturbed: tuple[Search, SearchOutcome]) -> None:
    search, outcome = undisturbed
    trials = outcome.state.trials
    assert [(trial.status, trial.step) for trial in trials] == [("finished", 20)] * 2
    assert all({"AP", "mono_AP", "cross_AP", "RankDistance", "pool_loss"} < trial.rows[20].keys() for trial in trials)
    assert outcome.state.steps == 40
    assert searched(search).state.seconds >= outcome.state.seconds, "and the same command runs nothing again"
    assert measured(search.state) == measured(outcome.state)


def test_what_a_search_leaves(undisturbed: tuple[Search, SearchOutcome]) -> None:
    search, outcome = undisturbed
    table = pq.read_table(search.folder / "trials.parquet").to_pylist()
    assert len(table) == 2 * 2
    summaries = json.loads((search.folder / "trials.json").read_text())
    assert [len(trial["curve"]) for trial in summaries] == [2, 2]
    front = {trial.name for trial in outcome.front}
    for trial in outcome.state.trials:
        assert trial_run(search.folder, trial).checkpoints.exists() == (trial.name in front)
        assert trial_run(search.folder, trial).model.exists() == (trial.name in front)
    assert outcome.report.stat().st_size > 10_000


@pytest.mark.integration
def test_every_fix_is_measured_beside_its_trial(workspace: Path) -> None:
    search = prepared(workspace, "fixes", Space({"plan.alpha": [0.2]}), posthoc=["centering", "lir"])
    plain, centered, fixed = searched(search).state.trials
    assert [(trial.status, trial.step, trial.posthoc) for trial in (plain, centered, fixed)] == [
        ("finished", 20, ""),
        ("finished", 20, "centering"),
        ("finished", 20, "lir"),
    ]
    assert plain.rows[20]["AP"] != centered.rows[20]["AP"]
    assert len(pq.read_table(search.folder / "trials.parquet")) == 2 + 2


@pytest.mark.soak
def test_the_best_configuration_trains_the_same_encoder_again(undisturbed: tuple[Search, SearchOutcome]) -> None:
    search, outcome = undisturbed
    config = TrainConfig.load(next(path for path in outcome.configs if path.stem == "AP"))
    fit(config, lambda outcome: None)
    best = outcome.state.best("AP")
    assert best is not None
    trained = search.config(best, "x").model_copy(update={"name": best.name, "storage_path": search.folder / "trials"})
    assert weights(config) == weights(trained)


def has_trained(run: RunDir) -> bool:
    return run.metrics.exists() and run.metrics.read_text().count("\n") >= 5


def processes(name: str) -> list[int]:
    """Of this cluster's actors of that class."""
    return [one["Pid"] for one in actors().values() if one["State"] == "ALIVE" and name in one["ActorClassName"]]


@pytest.mark.soak  # A killed rank of one run is tests/train/test_faults.py's.
@pytest.mark.parametrize("victim", ["RayTrainWorker", "ImplicitFunc", "TrainController"])
def test_killed_processes_change_nothing(
    workspace: Path, undisturbed: tuple[Search, SearchOutcome], victim: str
) -> None:
    """A rank; the process of a trial, with all that it owns; Ray Train's controller."""
    search = prepared(workspace, f"killed-{victim}", ALPHAS, "workers.max_failures=3", retries=2, concurrent=1)
    killed: list[int] = []

    def kill() -> None:
        while not (any(has_trained(trial_run(search.folder, trial)) for trial in search.state.trials) and killed):
            killed[:] = processes(victim)
            time.sleep(0.02)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    outcome = searched(search)
    assert not thread.is_alive()
    assert measured(outcome.state) == measured(undisturbed[1].state)


@pytest.mark.soak
@pytest.mark.parametrize("script", ["driver_killed", "node_lost"])
def test_in_a_session_of_its_own(workspace: Path, undisturbed: tuple[Search, SearchOutcome], script: str) -> None:
    """A process has one Ray session, and these lose theirs."""
    command = [sys.executable, "-m", f"tests.tune.{script}", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    state = SearchState.load(workspace / "runs" / script)
    assert measured(state) == measured(undisturbed[1].state)
    assert [trial.status for trial in state.trials] == ["finished", "finished"]


@pytest.mark.integration
def test_rungs_stop_the_worse_and_a_trial_that_fails_is_tried_again_and_reported(workspace: Path) -> None:
    rates = Space({"optimiser.learning_rate": [1e38, 1e-2, 1e-8]})
    search = prepared(workspace, "rungs", rates, rungs={"first": 10, "reduction": 3}, retries=1, concurrent=1)
    outcome = searched(search)
    failed, finished, stopped = outcome.state.trials
    assert (failed.status, failed.attempts) == ("failed", 2)
    assert "NonFiniteLoss" in failed.error
    assert [(trial.status, trial.step) for trial in (finished, stopped)] == [("finished", 20), ("stopped", 10)]
    assert {trial.steps for trial in (finished, stopped)} == {20}
    assert outcome.state.steps == 30
    assert [trial.trial_id for trial in outcome.front] == [finished.trial_id]
    assert not trial_run(search.folder, stopped).checkpoints.exists()
    assert trial_run(search.folder, stopped).validation.exists(), "its curve stays"


@pytest.mark.soak  # tests/tune/test_search.py has the limits themselves.
def test_a_budget_of_steps_ends_the_search(workspace: Path) -> None:
    four = Space({"plan.alpha": [0.2, 0.4, 0.6, 0.8]})
    search = prepared(workspace, "budget", four, budget={"steps": 30}, concurrent=1)
    state = searched(search).state
    assert [trial.status for trial in state.trials] == ["finished", "stopped"]
    assert state.steps == 30


@pytest.mark.soak
def test_a_population_finds_a_schedule_that_can_be_replayed(workspace: Path) -> None:
    space = Space(
        {"plan.alpha": tune.uniform(0.0, 1.0), "optimiser.learning_rate": tune.loguniform(1e-7, 1e-2)},
        settings={"algorithm": "pbt", "samples": 3, "segment": 10},
        configure=lambda values, base: {"plan.policy": "hybrid", **values},
    )
    search = prepared(workspace, "population", space, "optimiser.steps=30")
    state = searched(search).state
    assert [(trial.status, trial.step) for trial in state.trials] == [("finished", 30)] * 3
    lineages = {trial.trial_id: read_lineage(trial_run(search.folder, trial).root) for trial in state.trials}
    changed = [trial for trial in state.trials if len(lineages[trial.trial_id]) > 1]
    assert changed, "the worst took over from the best"
    trial = changed[0]
    starts = [ancestor.from_step for ancestor in lineages[trial.trial_id]]
    assert starts[0] == 0
    assert set(starts[1:]) <= {10, 20}
    replayed = search.config(trial, "replayed")
    assert isinstance(replayed.plan.alpha, Stages)
    assert [stage.from_step for stage in replayed.plan.alpha.stages] == starts
    fit(replayed, lambda outcome: None)
    assert last_measures(replayed) == {name: trial.rows[30][name] for name in last_measures(replayed)}


def last_measures(config: TrainConfig) -> dict[str, float]:
    *_, last = ValidationRecord(config.run.validation).results().values()
    return {name: last[name] for name in ("AP", "mono_AP", "cross_AP", "RankDistance", "pool_loss")}


@pytest.mark.soak
def test_optuna_looks_for_the_front_of_all_objectives(workspace: Path) -> None:
    pytest.importorskip("optuna")
    space = Space({"plan.alpha": tune.uniform(0.0, 1.0), "plan.cross": ["rows", "pair"]}, seeds=2)
    search = prepared(workspace, "optuna", space, "optimiser.steps=10", algorithm="optuna", samples=3)
    state = searched(search).state
    assert [trial.status for trial in state.trials] == ["finished"] * 3
    assert len({trial.values["plan.alpha"] for trial in state.trials}) == 3
    assert {trial.values["plan.cross"] for trial in state.trials} <= {"rows", "pair"}
