"""Faults in real runs: whatever dies, and whenever, the weights are those of a run that nothing happened to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.loader import Loader, LoaderConfig
from hbt_ray.errors import StalledRank, StorageError
from hbt_ray.model.build import tokenising_config
from hbt_ray.model.trainable_encoder import load_for_training
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import exclusive_lock
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import fit, open_run
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.step.train_step import TrainStep
from tests.commands import hbt
from tests.disks import resize, small_disk
from tests.small_data import mined_table, small_store, write_negatives
from tests.train import faults, nodes_change
from tests.train.faults import NUM_STEPS, Faults, faults_run, kill, leave, refuse, stall

cloudpickle.register_pickle_by_value(faults)  # Workers need not find the tests.
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    store = Store(small_store(folder / "store")).manifest
    write_negatives(folder / "mined", store, {"colours": mined_table()})
    return folder


@pytest.fixture(scope="module")
def undisturbed(workspace: Path, ray_session: None) -> TrainConfig:
    config = faults_run(workspace, "name=undisturbed")
    fit(config, lambda outcome: None)
    return config


def disturbed(workspace: Path, name: str, *overrides: str) -> tuple[TrainConfig, Faults]:
    folder = workspace / f"marks-{name}"
    folder.mkdir()
    return faults_run(workspace, "workers.max_failures=9", f"name={name}", *overrides), Faults(folder)


def last_files(run: RunDir) -> dict[str, bytes]:
    newest = CheckpointDirectory(run.checkpoints).newest()
    assert newest is not None
    return {path.name: path.read_bytes() for path in sorted(newest[0].iterdir())}


@pytest.mark.parametrize(
    "places",
    [
        pytest.param(
            ((3, 1, "batch", kill), (12, 0, "before_update", leave), (22, 1, "after_update", leave)),
            id="steps",
            marks=pytest.mark.soak,
        ),
        pytest.param(((15, 0, "written", kill),), id="checkpoint"),
    ],
)
def test_workers_killed_anywhere_change_nothing(
    workspace: Path, undisturbed: TrainConfig, places: tuple[Any, ...], request: pytest.FixtureRequest
) -> None:
    """In a batch, before and after the weights change, and in the middle of a checkpoint."""
    config, schedule = disturbed(workspace, f"killed-{request.node.callspec.id}")
    for place in places:
        schedule = schedule.at(*place)
    steps: list[int] = []
    assert fit(config, lambda outcome: steps.append(outcome.step), hooks=schedule) == NUM_STEPS
    assert schedule.happened() == list(range(len(places)))
    assert sorted(set(steps)) == list(range(NUM_STEPS))
    assert steps_on_disk(config.run) == list(range(NUM_STEPS))
    assert last_files(config.run) == last_files(undisturbed.run)
    assert [row["loss"] for row in config.run.curve()] == [row["loss"] for row in undisturbed.run.curve()]
    plan = Plan(Store(workspace / "store").manifest, config.plan.model_copy(update={"negatives": 0}))
    assert all(items == plan.batch(step).items.tolist() for step, items in schedule.seen() if len(items) == 12)


@pytest.mark.parametrize(
    ("step", "rank", "place", "reported", "stuck_at", "kept"),
    [
        # Checkpoints are written beside training, so the rank waits when the next one is due.
        pytest.param(10, 0, "written", 15, r"threading\.py:\d+ in wait", 5, marks=pytest.mark.soak),
        (17, 1, "before_update", 17, r"faults\.py:\d+ in stall", 15),
    ],
)
def test_a_stall_in_storage_or_in_a_step_is_ended_and_named(
    workspace: Path,
    undisturbed: TrainConfig,
    step: int,
    rank: int,
    place: str,
    reported: int,
    stuck_at: str,
    kept: int,
) -> None:
    config, schedule = disturbed(workspace, f"stuck-{place}", "workers.deadline_seconds=30", "workers.max_failures=0")
    with pytest.raises(StalledRank, match=rf"rank {rank} was at .*{stuck_at}") as caught:
        fit(config, lambda outcome: None, hooks=schedule.at(step, rank, place, stall))
    assert caught.value.step == reported
    newest = CheckpointDirectory(config.run.checkpoints).newest()
    assert newest is not None
    assert newest[1].step == kept
    fit(config, lambda outcome: None)
    assert last_files(config.run) == last_files(undisturbed.run)


@pytest.mark.soak  # A disk that is really full also ends in one error, whichever file found no room.
def test_storage_that_refuses_ends_in_one_named_error(workspace: Path) -> None:
    config, schedule = disturbed(workspace, "full", "workers.max_failures=0")
    with pytest.raises(StorageError, match=r"checkpoint of step 10 cannot be written .*No space left") as caught:
        fit(config, lambda outcome: None, hooks=schedule.at(10, 0, "written", refuse))
    assert caught.value.path.endswith("step-00000010")
    assert CheckpointDirectory(config.run.checkpoints).steps() == [5]
    assert [path.name for path in config.run.checkpoints.glob(".step*")] == []


def test_a_disk_that_is_really_full_is_one_error_and_with_room_the_run_goes_on(
    workspace: Path, undisturbed: TrainConfig, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "600k") as disk:
        config = faults_run(workspace, "workers.max_failures=0", "name=small-disk", f"storage_path={disk}")
        with pytest.raises(StorageError) as caught:
            fit(config, lambda outcome: None)
        assert caught.value.path.startswith(str(config.run.root))
        steps = CheckpointDirectory(config.run.checkpoints).steps()
        assert steps, "some checkpoint found room"
        assert steps_on_disk(config.run)[: steps[-1]] == list(range(steps[-1]))
        assert list(config.run.checkpoints.glob(".step*")) == [], "nothing of the one that found none"
        resize(disk, "64m")
        assert fit(config, lambda outcome: None) == NUM_STEPS
        assert last_files(config.run) == last_files(undisturbed.run)
        assert steps_on_disk(config.run) == list(range(NUM_STEPS))


@pytest.mark.soak  # tests/train/test_train_step.py has ranks and their losses without Ray.
def test_other_numbers_of_workers_see_the_same_batches(workspace: Path) -> None:
    """And twelve rows do not divide among five."""
    counts = (3, 1, 2, 5)
    steps = 8 * len(counts)
    settings = ("model.dropout=0", f"optimiser.steps={steps}", "checkpoints.every=8")
    config, schedule = disturbed(workspace, "changing", *settings)
    open_run(config)
    expected = in_this_process(config)
    for until, count in zip(range(8, steps + 1, 8), counts, strict=True):
        changed = config.model_copy(update={"workers": config.workers.model_copy(update={"count": count})})
        assert fit(changed, lambda outcome: None, until, hooks=schedule) == until
    assert [row["loss"] for row in config.run.curve()] == pytest.approx(expected, rel=1e-5)
    plan = Plan(Store(workspace / "store").manifest, config.plan.model_copy(update={"negatives": 0}))
    assert schedule.seen() == [(step, plan.batch(step).items.tolist()) for step in range(steps)]


def in_this_process(config: TrainConfig) -> list[float]:
    """Losses of the run without Ray."""
    encoder = load_for_training(config.run.base, config.model)
    settings = (encoder, config.optimiser, Objective(config.loss))
    rows = config.plan.batch_size
    train_step = TrainStep(*settings, padding_id=encoder.tokenizer.pad_token_id, rank_sizes=(rows,))
    loader = Loader(
        LoaderConfig(config.store, config.plan, tokenising_config(encoder, config.model), negatives=config.negatives)
    )
    return [train_step.run(loader.rank_batch(step, 0, 1)).loss for step in range(config.optimiser.steps)]


@pytest.mark.soak
def test_nodes_that_announce_their_end_cost_no_step_and_others_are_taken_in(workspace: Path) -> None:
    """Three workers, one, two: the same batches, and the curve of one process."""
    command = [sys.executable, "-m", "tests.train.nodes_change", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    config, schedule = nodes_change.settings(workspace), Faults(workspace / "marks-nodes_change")
    three, one, two = schedule.starts()
    assert [len(start.ranks) for start in (three, one, two)] == [3, 1, 2]
    assert three.last + 1 == one.first
    # To take one in is a restart from a checkpoint: one of those in time, or the one that the notice asked for.
    assert two.first % config.checkpoints.every == 0 or two.first == one.first
    assert two.last == config.optimiser.steps - 1
    plan = Plan(Store(workspace / "store").manifest, config.plan)
    assert all(items == plan.batch(step).items.tolist() for step, items in schedule.seen() if len(items) == 12)
    assert [row["loss"] for row in config.run.curve()] == pytest.approx(in_this_process(config), rel=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("script", ["driver_killed", "node_lost"])
def test_in_a_session_of_its_own(workspace: Path, undisturbed: TrainConfig, script: str) -> None:
    """A process has one Ray session, and these lose theirs."""
    command = [sys.executable, "-m", f"tests.train.{script}", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    run = RunDir(workspace / "runs" / script)
    assert last_files(run) == last_files(undisturbed.run)
    assert steps_on_disk(run) == list(range(NUM_STEPS))


def steps_on_disk(run: RunDir) -> list[int]:
    """Every line of the metrics file; a damaged one would be an error here."""
    return [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]


def test_a_command_that_was_killed_goes_on_and_loses_nothing(workspace: Path, undisturbed: TrainConfig) -> None:
    """The driver is killed beyond a checkpoint and ends its workers; then the same command goes on to its end."""
    config = faults_run(workspace, "name=ended")
    (workspace / "ended.yaml").write_text(config.to_yaml())
    kill_command(workspace / "ended.yaml", config.run, 20)
    with exclusive_lock(config.run.root, "the lock is free"):
        pass
    with config.run.metrics.open("a") as file:
        file.write('{"step": 200, "lo')  # As a full disk or a crash of the machine leaves it.
    done = hbt("train", workspace / "ended.yaml")
    assert done.returncode == 0, done.stderr
    assert last_files(config.run) == last_files(undisturbed.run)
    assert steps_on_disk(config.run) == list(range(NUM_STEPS))
    assert [row["loss"] for row in config.run.curve()] == [row["loss"] for row in undisturbed.run.curve()]
    assert {path.stat().st_mode & 0o777 for path in config.run.root.rglob("*") if path.is_file()} == {0o644}


def kill_command(config: Path, run: RunDir, reached: int) -> None:
    """Kill `hbt train` once so many steps are on the disk.

    All processes that it started must be gone soon after, but for Ray's own agents, which look every minute.
    """
    command = [sys.executable, "-m", "hbt_ray", "train", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        while len(run.curve()) <= reached:
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.1)
        started = descendants(driver.pid)
        driver.kill()
        assert driver.wait(timeout=120) == -signal.SIGKILL
        gone_by = time.monotonic() + 15
        while left := started & ray_processes().keys():
            assert time.monotonic() < gone_by, left
            time.sleep(0.1)


def ray_processes() -> dict[int, int]:
    """Process → parent, of those that work for Ray now, such as `ray::RayTrainWorker`."""
    listed = subprocess.run(["ps", "-Ao", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = (line.split(None, 3) for line in listed.stdout.splitlines())
    return {
        int(row[0]): int(row[1])
        for row in rows
        if len(row) == 4 and ("ray::" in row[3] or "raylet" in row[3]) and "Agent" not in row[3] and row[2][0] != "Z"
    }


def descendants(process: int) -> set[int]:
    found, parents = {process}, ray_processes()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}
