"""A run in an object store gives the weights of one on a disk, also if its driver is killed or its store fails."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbt_ray.errors import InputError
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import ObjectPath, file_sha256, local_folder
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import fit, open_run
from hbt_ray.train.export import export
from hbt_ray.train.validation.record import ValidationRecord
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.search import Search
from hbt_ray.tune.space import load_space
from tests.object_stores import FaultProxy, behind, new_bucket, s3_server, slow_down
from tests.refused import refused
from tests.small_data import small_run, small_store

NUM_STEPS = 60


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("buckets")
    small_store(folder / "store")
    small_store(folder / "dev", num_items=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with s3_server() as port:
        proxy = FaultProxy(port)
        yield proxy
        proxy.close()


@pytest.fixture(scope="module")
def bucket(proxy: FaultProxy) -> ObjectPath:
    return behind(proxy, new_bucket(proxy.port))


def configured(workspace: Path, storage: object, name: str) -> TrainConfig:
    """A run with validation."""
    settings = (f"name={name}", f"validation.store={workspace / 'dev'}", "validation.items=12", "checkpoints.keep=3",
                f"optimiser.steps={NUM_STEPS}")  # fmt: skip
    return small_run(workspace, *settings, storage_path=str(storage))


def trained(config: TrainConfig) -> RunDir:
    assert fit(config, lambda _: None) == NUM_STEPS
    export(config.run)
    return config.run


def outcome(run: RunDir) -> dict[str, object]:
    """All that training leaves: files of the last checkpoint, losses, measures, exported weights."""
    folder = local_folder(CheckpointDirectory(run.checkpoints).path(NUM_STEPS))
    rows = ValidationRecord(run.validation).results().values()
    return {
        "checkpoints": CheckpointDirectory(run.checkpoints).steps(),
        "files": {path.name: file_sha256(path) for path in folder.iterdir() if path.name != "checkpoint.json"},
        "losses": [row["loss"] for row in run.curve()],
        "measures": [{name: value for name, value in row.items() if name != "seconds"} for row in rows],
        "model": file_sha256(local_folder(run.model) / "model.safetensors"),
    }


@pytest.fixture(scope="module")
def on_disk(workspace: Path, ray_session: None) -> dict[str, object]:
    return outcome(trained(configured(workspace, workspace / "runs", "disk")))


@pytest.mark.integration
def test_a_run_in_a_bucket_is_one_on_a_disk(
    workspace: Path, bucket: ObjectPath, on_disk: dict[str, object], ray_session: None
) -> None:
    run = trained(configured(workspace, bucket / "runs", "bucket"))
    assert outcome(run) == on_disk
    assert (run.root / "tensorboard").names()
    assert "secret" not in run.config.read_text()


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["throttled", "cut", "not yet there"])
def test_a_store_that_fails_now_and_then_changes_nothing(
    workspace: Path,
    bucket: ObjectPath,
    proxy: FaultProxy,
    on_disk: dict[str, object],
    fault: str,
    ray_session: None,
) -> None:
    failed: set[str] = set()

    def fail(method: str, path: str, size: int) -> tuple[int, str] | None:
        """Fail the first request of its kind for each file of a checkpoint."""
        key = f"{method} {path.partition('?')[0]}"
        if key in failed or not re.search(r"step-\d+/\w", path):
            return None
        if fault == "not yet there" and method not in ("GET", "HEAD"):
            return None
        failed.add(key)
        return {"throttled": slow_down(method, path, size), "cut": (0, ""), "not yet there": (404, "")}[fault]

    proxy.fault = fail
    try:
        run = trained(configured(workspace, bucket / "runs", fault.replace(" ", "-")))
        assert outcome(run) == on_disk
    finally:
        proxy.fault = lambda method, path, size: None
    assert failed


def hbt(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process that was not forked: the client of S3 hangs in a fork of a process that has loaded it."""
    words = [sys.executable, "-m", "hbt_ray", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def written(workspace: Path, config: TrainConfig) -> tuple[Path, str]:
    """The configuration as a file, which has no credentials, and the override that adds them."""
    path = workspace / f"{config.name}.yaml"
    path.write_text(config.to_yaml())
    return path, f"storage_path={config.storage_path}"


@pytest.mark.soak
def test_a_command_that_was_killed_goes_on_and_its_run_is_evaluated_and_reported(
    workspace: Path, bucket: ObjectPath, on_disk: dict[str, object]
) -> None:
    config = configured(workspace, bucket / "runs", "killed")
    arguments, run = written(workspace, config), config.run
    with subprocess.Popen(
        [sys.executable, "-m", "hbt_ray", "train", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as driver:
        while not CheckpointDirectory(run.checkpoints).steps():
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.1)
        driver.kill()
    done = hbt("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert outcome(run) == on_disk
    done = hbt("evaluate", str(run.root), "--task", "worldfacts", "--untrained", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert [path.parent.name for path in run.results()] == ["worldfacts"]
    assert [path.parent.name for path in run.results(of_base=True)] == ["worldfacts@base"]
    done = hbt("report", str(bucket / "runs" / "*"), cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "<svg" in run.report.read_text()
    assert "worldfacts" in (run.model / "README.md").read_text()


@pytest.mark.soak
def test_a_second_command_is_refused_while_the_first_runs(workspace: Path, bucket: ObjectPath) -> None:
    config = configured(workspace, bucket / "runs", "twice")
    arguments, run = written(workspace, config), config.run
    with subprocess.Popen(
        [sys.executable, "-m", "hbt_ray", "train", *arguments, "--until", "20"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        while not run.config.exists():
            assert first.poll() is None
            time.sleep(0.1)
        second = hbt("train", *arguments)
        assert second.returncode == 2
        assert "LockedError" in second.stderr
        assert "in use by training" in second.stderr
        assert first.wait() == 0
    assert CheckpointDirectory(run.checkpoints).steps() == [10, 20]


@pytest.mark.parametrize(
    ("location", "word"), [("s3://no-such-bucket/runs", "NO_SUCH_BUCKET"), ("nfs://server/runs", "cannot be opened")]
)
def test_a_place_that_cannot_be_used_is_named_before_a_worker_starts(
    workspace: Path, bucket: ObjectPath, location: str, word: str
) -> None:
    options = bucket.bucket.partition("?")[2] if location.startswith("s3") else ""
    with pytest.raises(InputError, match=word) as error:
        open_run(configured(workspace, f"{location}?{options}", "nowhere"))
    assert location.partition("/runs")[0] in str(error.value)


def test_a_search_says_that_it_needs_a_folder(workspace: Path, bucket: ObjectPath) -> None:
    space, _ = load_space("tune_spaces.mixing_ratio")
    with refused("STORAGE_URI", "a search needs a folder that all nodes see"):
        Search(space, "mixing_ratio", configured(workspace, bucket / "runs", "search"), TuneConfig())
