"""Workers on hosts of their own: a slow link changes no weight, and a cut one is told and survived."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hbt_ray.storage import local_folder
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from tests.cluster.hosts import HERE, ROOT, hosts, possible
from tests.object_stores import new_bucket, s3_server, uri
from tests.small_data import small_run, small_store

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not possible(), reason="needs root, and the commands ip and tc, for network namespaces"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all hosts see."""
    folder = tmp_path_factory.mktemp("distance")
    small_store(folder / "store")
    return folder


def run(workspace: Path, name: str, *overrides: str) -> TrainConfig:
    steps = ("optimiser.steps=300", "checkpoints.every=20", "workers.start_seconds=60")
    return small_run(workspace, f"name={name}", *steps, *overrides)


def training(config: TrainConfig, environment: dict[str, str], folder: Path | None = None) -> subprocess.Popen[str]:
    path = (folder or Path(config.storage_path).parent) / f"{config.name}.yaml"
    path.write_text(config.to_yaml())  # Without credentials, so the place follows.
    command = [sys.executable, "-m", "hbt_ray", "train", str(path), f"storage_path={config.storage_path}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment)


def weights(config: TrainConfig) -> dict[str, bytes]:
    newest = CheckpointDirectory(config.run.checkpoints).newest()
    assert newest is not None
    return {path.name: path.read_bytes() for path in sorted(local_folder(newest[0]).iterdir())}


def wait_for_step(config: TrainConfig, job: subprocess.Popen[str], step: int) -> None:
    curve, end = config.run.root / "metrics.jsonl", time.monotonic() + 120
    while not (curve.is_file() and len(curve.read_text().splitlines()) > step):
        assert job.poll() is None, job.stderr.read() if job.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.1)


def followed(config: TrainConfig, environment: dict[str, str]) -> tuple[int, str]:
    job = training(config, environment)
    try:
        _, told = job.communicate(timeout=900)
    finally:
        job.kill()
    return job.returncode, told


def test_a_slow_link_changes_no_weight_and_a_cut_one_is_survived(workspace: Path) -> None:
    near, slow, cut = (run(workspace, name, "workers.max_failures=3") for name in ("near", "slow", "cut"))
    with hosts(3) as (environment, everyone):
        assert followed(near, environment)[0] == 0
        for host in everyone:
            host.slow("8mbit")
        code, told = followed(slow, environment)
        assert code == 0, told
        assert weights(slow) == weights(near)
        job = training(cut, environment)
        wait_for_step(cut, job, 60)
        lost = next(host for host in everyone if host.trains())
        lost.cut()
        out, told = job.communicate(timeout=900)
        assert job.returncode == 0, told
        assert weights(cut) == weights(near)
        assert f"; Ray has lost {lost.address}, and waits for workers" in out
        assert "the workers were started again: training continues from step" in out
    assert not any(host.processes() for host in everyone)


def test_hosts_that_share_no_folder_train_in_a_bucket(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a host is lost: what its worker had written is in the bucket, and another one fetches it."""
    cache = workspace / "cache"
    cache.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    disk = run(workspace, "disk")
    with s3_server("0.0.0.0") as port, hosts(3, hidden=cache) as (environment, everyone):
        bucket = new_bucket(port).bucket.partition("?")[0].rpartition("@")[2].removeprefix("s3://")
        place = uri(port, f"{bucket}/runs", HERE)
        code, told = followed(disk, environment)
        assert code == 0, told
        for name, loses_host in (("whole", False), ("lost", True)):
            config = run(workspace, name, f"storage_path={place}", "workers.max_failures=3")
            job = training(config, environment, workspace)
            while loses_host and 60 not in CheckpointDirectory(config.run.checkpoints).steps():
                assert job.poll() is None
                time.sleep(0.2)
            if loses_host:
                next(host for host in everyone if host.trains()).cut()
            out, told = job.communicate(timeout=900)
            assert job.returncode == 0, out + told
            assert weights(config) == weights(disk)
            assert [row["loss"] for row in config.run.curve()] == [row["loss"] for row in disk.run.curve()]
    assert not (workspace / "runs" / "whole").exists()


def test_a_cut_link_with_no_host_to_spare_ends_with_what_happened(workspace: Path) -> None:
    config = run(workspace, "alone", "workers.start_seconds=20", "optimiser.steps=2000")
    with hosts(2) as (environment, everyone):
        job = training(config, environment)
        wait_for_step(config, job, 60)
        everyone[1].cut()
        _, told = job.communicate(timeout=900)
        assert job.returncode == 1
        assert everyone[1].address in told


def test_storage_that_hosts_do_not_share_is_refused(workspace: Path) -> None:
    config = run(workspace, "unshared")
    Path(config.storage_path).mkdir(exist_ok=True)
    with hosts(2, hidden=Path(config.storage_path)) as (environment, _):
        begin = time.monotonic()
        code, told = followed(config, environment)
        assert time.monotonic() - begin < 60
    assert code == 2
    assert "and 2 of 3 nodes do not see what is written there" in told
    assert not config.run.checkpoints.exists()
