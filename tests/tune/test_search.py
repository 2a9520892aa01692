"""A search before it begins: errors come before a trial starts, and a folder holds one search."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle, tune
from ray.tune.experiment import Experiment

from hbt_ray.errors import ConfigError, DamagedFile, ResourceError
from hbt_ray.storage import append_json_lines
from hbt_ray.tune.config import SearchBudget, TuneConfig
from hbt_ray.tune.recorder import EventRecorder
from hbt_ray.tune.search import Search
from hbt_ray.tune.search_state import EVENTS, SearchState, Trial
from hbt_ray.tune.space import Space
from hbt_ray.tune.tuner import LimitedVariantGenerator, SessionLimits, exhausted_budget, make_tuner
from tests.small_data import small_run

ALPHAS = Space({"plan.alpha": [0.2, 0.5, 0.8]}, seeds=2)
DRAWN = Space({"plan.alpha": tune.uniform(0, 1)})


def make_search(folder: Path, space: Space = ALPHAS, *overrides: str, dev: bool = True, **settings: Any) -> Search:
    options = ["name=sweep", *([f"validation.store={folder / 'dev'}"] if dev else []), *overrides]
    return Search(space, "a space", small_run(folder, *options), TuneConfig.make(settings, "test"))


def test_a_grid_has_all_combinations_with_all_seeds(tmp_path: Path) -> None:
    both = Space({"plan.alpha": [0.2, 0.5, 0.8], "plan.cross": ["rows", "pair"]}, seeds=2)
    assert make_search(tmp_path / "a", both).num_trials == 12
    assert make_search(tmp_path / "b", both, algorithm="random", samples=4).num_trials == 8
    assert make_search(tmp_path / "c", both, budget={"trials": 5}).num_trials == 5


def test_a_search_that_cannot_work_is_refused_before_a_trial_starts(tmp_path: Path) -> None:
    refused: list[tuple[str, Space, dict[str, Any]]] = [
        ("INVALID_CONFIG", Space({"plan.alfa": [1]}), {}),
        ("SMALL_BUDGET", ALPHAS, {"budget": {"steps": 30}}),
        ("LATE_RUNG", ALPHAS, {"rungs": {"first": 40}}),
        ("PBT_DOMAINS", ALPHAS, {"algorithm": "pbt", "samples": 4, "segment": 10}),
        ("PBT_POPULATION", DRAWN, {"algorithm": "pbt", "segment": 10}),
        ("PBT_SEGMENT", DRAWN, {"algorithm": "pbt", "samples": 4, "segment": 15}),
    ]
    for code, space, settings in refused:
        with pytest.raises(ConfigError) as error:
            make_search(tmp_path, space, **settings)
        assert error.value.code == code
    with pytest.raises(ConfigError) as error:
        make_search(tmp_path, dev=False)
    assert error.value.code == "NO_DEV_STORE"
    assert not (tmp_path / "runs").exists(), "nothing is written for a search that cannot be"


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        (r"objectives.*'AP', 'mono_AP', 'cross_AP'", {"objectives": ["accuracy"]}),
        ("objectives names a measure twice", {"objectives": ["AP", "AP"]}),
        ("needs segment", {"algorithm": "pbt"}),
        ("segment applies only to algorithm=pbt", {"segment": 10}),
        ("rungs stop trials", {"algorithm": "pbt", "segment": 10, "rungs": {"first": 5}}),
        (r"budget\.hours", {"budget": {"hours": 0}}),
    ],
)
def test_settings_that_exclude_each_other_are_refused(message: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        TuneConfig.make(settings, "test")


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    make_search(tmp_path).open()
    make_search(tmp_path).open()
    make_search(tmp_path, budget={"steps": 1_000}, concurrent=1, retries=3)  # Which may change.
    with pytest.raises(ConfigError, match=r"another varies\.plan\.alpha \(\[0\.2, 0\.5, 0\.8\], and now \[0\.1\]\)"):
        make_search(tmp_path, Space({"plan.alpha": [0.1]}, seeds=2))
    with pytest.raises(ConfigError, match=r"another base\.plan\.batch_size \(12, and now 16\)"):
        make_search(tmp_path, ALPHAS, "plan.batch_size=16")
    with pytest.raises(ConfigError, match=r"another settings\.samples \(1, and now 2\)"):
        make_search(tmp_path, samples=2)
    other = tmp_path / "runs" / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("all my work")
    with pytest.raises(ConfigError) as error:
        make_search(tmp_path, ALPHAS, "name=thesis")
    assert error.value.code == "NOT_A_SEARCH"
    assert [path.name for path in other.iterdir()] == ["chapter.txt"]


def test_trials_at_a_time_follow_from_what_the_cluster_has(tmp_path: Path) -> None:
    search = make_search(tmp_path, ALPHAS, "workers.count=2", "workers.cpus=3", "validation.cpus=0.5")
    assert search.max_concurrent({"CPU": 13.0}) == 2
    assert search.max_concurrent({"CPU": 12.9}) == 1
    with pytest.raises(ResourceError, match=r"a trial needs 6\.5 CPU, and the cluster has 4 CPU"):
        search.max_concurrent({"CPU": 4.0})
    on_gpus = make_search(tmp_path / "gpus", ALPHAS, "workers.count=2", "workers.gpu=true", "validation.gpu=true")
    assert on_gpus.max_concurrent({"CPU": 64.0, "GPU": 8.0}) == 2
    with pytest.raises(ResourceError, match=r"3 GPU.* has 64 CPU, 0 GPU"):
        on_gpus.max_concurrent({"CPU": 64.0})


def test_the_best_configuration_is_the_users_with_the_values_of_the_trial(tmp_path: Path) -> None:
    search = make_search(tmp_path, ALPHAS, "workers.start_seconds=33")
    trial = Trial("ab_1", "x", {"plan.alpha": 0.8, "seed": 1, "posthoc": "lir"}, 40, posthoc="lir")
    config = search.config(trial, "best-AP")
    assert (config.plan.alpha, config.model.seed, config.workers.start_seconds) == (0.8, 1, 33)
    assert config.stream == small_run(tmp_path).stream
    assert config.run.root == tmp_path / "runs" / "sweep-best-AP"


def test_limits_are_those_of_the_session_that_runs(tmp_path: Path) -> None:
    def variants() -> LimitedVariantGenerator:
        SessionLimits(concurrent=2, budget=SearchBudget(trials=3)).save(tmp_path)
        search = LimitedVariantGenerator(tmp_path, together=False, random_state=0)
        space = {"a": tune.grid_search([1, 2, 3, 4, 5])}
        search.add_configurations([Experiment("limits", lambda config: None, config=space, storage_path=str(tmp_path))])
        return search

    search = variants()
    started = [search.next_trial(), search.next_trial()]
    assert search.next_trial() is None, "two at a time"
    SessionLimits(concurrent=3, budget=SearchBudget(trials=3)).save(tmp_path)
    started.append(search.next_trial())
    assert [trial.config["a"] for trial in started] == [1, 2, 3]
    assert search.is_finished()
    state = search.get_state()
    SessionLimits(concurrent=9, budget=SearchBudget(trials=4)).save(tmp_path)
    again = LimitedVariantGenerator(tmp_path, together=False)
    again.set_state(state)
    assert again.next_trial().config["a"] == 4
    assert again.next_trial() is None
    SessionLimits(concurrent=9).save(tmp_path)
    assert again.next_trial().config["a"] == 5
    assert again.next_trial() is None
    assert again.is_finished()


def test_a_budget_is_spent_by_steps_hours_or_gpu_hours() -> None:
    now = time.time()
    trial = Trial("a", "a", {}, 40, gpus=4, rows={20: {"step": 20}}, seconds=1800)
    fixed = Trial("a+lir", "a", {}, 40, rows={40: {"step": 40}}, posthoc="lir")
    state = SearchState([trial, fixed], seconds=3600, last=now)
    assert exhausted_budget(state, SearchBudget(), now) == ""
    assert exhausted_budget(state, SearchBudget(steps=21, hours=1.1, gpu_hours=2.1), now) == ""
    assert exhausted_budget(state, SearchBudget(steps=20), now) == "20 of 20 steps are used"
    assert exhausted_budget(state, SearchBudget(hours=1), now) == "1 of 1 hours are used"
    assert exhausted_budget(state, SearchBudget(hours=1.5), now + 1800) == "1.5 of 1.5 hours are used"
    assert exhausted_budget(state, SearchBudget(gpu_hours=2), now) == "2 of 2 GPU hours are used"


@pytest.mark.parametrize("damaged", ["tuner.pkl", "experiment_state-1.json", "basic-variant-state-1.json"])
def test_a_damaged_state_of_ray_tune_is_discarded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    search = make_search(tmp_path)
    search.open()
    SessionLimits(concurrent=1).save(search.folder)
    folder = search.folder / "tune"
    folder.mkdir()
    (folder / "tuner.pkl").write_bytes(cloudpickle.dumps({}))
    (folder / "experiment_state-1.json").write_bytes(b'{"trial_data": []}')
    (folder / "basic-variant-state-1.json").write_bytes(cloudpickle.dumps({"counter": 2}))
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:-1])
    recorder = EventRecorder(search.folder, ("AP",), 0.0)
    make_tuner(ALPHAS, search.settings, search._factory, recorder, 10)
    assert "Ray Tune's state is damaged" in caplog.text
    assert not (folder / "experiment_state-1.json").exists()


def test_a_new_session_gives_the_same_values_the_same_ids(tmp_path: Path) -> None:
    SessionLimits(concurrent=2).save(tmp_path)
    trials = []
    for _ in range(2):
        variants = LimitedVariantGenerator(tmp_path, together=False, random_state=0)
        space = {"a": tune.grid_search([4, 5])}
        variants.add_configurations([Experiment("x", lambda config: None, config=space, storage_path=str(tmp_path))])
        trials.append([(trial.trial_id, trial.config) for trial in (variants.next_trial(), variants.next_trial())])
    assert trials[0] == trials[1] == [("trial_00000", {"a": 4}), ("trial_00001", {"a": 5})]


def test_a_torn_description_is_named(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    search.open()
    for torn in ("[1, 2]", "space: [", "\0"):
        (search.folder / "search.yaml").write_text(torn)
        with pytest.raises(DamagedFile):
            make_search(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_limits_that_were_changed_are_named(tmp_path: Path, damage: str) -> None:
    """A changed digit would let a search spend ten times its budget."""
    SessionLimits(concurrent=2, budget=SearchBudget(hours=10)).save(tmp_path)
    path = tmp_path / "limits.json"
    content = path.read_bytes()
    path.write_bytes(content[:-9] if damage == "cut" else content.replace(b"10", b"90"))
    with pytest.raises(DamagedFile):
        SessionLimits.read(tmp_path)


@pytest.mark.parametrize(("error", "full"), [("StorageError: x: No space left on device", True), ("NaN", False)])
def test_a_full_disk_of_a_trial_ends_only_its_session(tmp_path: Path, error: str, full: bool) -> None:
    search = make_search(tmp_path)
    about = {"trial": "a", "name": "a", "values": {}, "steps": 20, "gpus": 0.0}
    events = [{"event": "session"}, {"event": "started", **about}, {"event": "failed", "error": error, **about}]
    append_json_lines(search.folder / EVENTS, [{**event, "time": 1.0} for event in events], checked=True)
    assert (search._storage_failure({}) is not None) == full
    assert search._storage_failure({"a": 1}) is None, "it failed in an earlier session"
