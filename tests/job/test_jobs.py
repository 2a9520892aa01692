"""Jobs on a cluster of three nodes, of which the head takes no work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hbt_ray.run_dir import RunDir
from tests.cluster.files import CLUSTER
from tests.job.cluster import ROOT, LocalCluster, local_cluster
from tests.small_data import small_run, small_store

pytestmark = pytest.mark.integration

pytest.importorskip("aiohttp", reason="jobs need the cluster extra")

RAYS_OWN = (
    *("ray::IDLE", "ray::Dashboard", "ray::RuntimeEnvAgent", "ray::JobSupervisor"),
    *("ray::_AutoscalingC", "ray::_Stats", "ray::ActorLocationTracker"),
)
"""What a cluster has before and after a job; the last three Ray Data keeps, on the head."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as made:
        yield made
    assert made.processes == []


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all nodes see."""
    folder = tmp_path_factory.mktemp("shared")
    small_store(folder / "store")
    small_store(folder / "dev", 24)
    # By its URI, so that nodes fetch shards as they do from a bucket, and count what their caches had.
    run = small_run(folder, f"store={(folder / 'store').as_uri()}", "optimiser.steps=150", "checkpoints.every=75")
    (folder / "train.yaml").write_text(run.to_yaml())
    return folder


def submit(cluster: LocalCluster, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hbt_ray", "submit", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=cluster.environment)


def followed(cluster: LocalCluster, *arguments: str | Path, seconds: int = 900) -> tuple[int, str, str]:
    job = submit(cluster, *arguments)
    try:
        out, told = job.communicate(timeout=seconds)
    finally:
        job.kill()
    return job.returncode, out, told


def test_a_job_that_fails_returns_1_and_its_log_says_why(cluster: LocalCluster) -> None:
    code, out, _ = followed(cluster, "train", "nowhere.yaml")
    assert code == 1
    assert "ConfigError: nowhere.yaml: no such file" in out


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token; set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "does not accept this token; put the cluster's token in ~/.ray/auth_token"),
    ],
)
def test_without_the_token(cluster: LocalCluster, environment: dict[str, str], message: str) -> None:
    command = [sys.executable, "-m", "hbt_ray", "submit", "train", "nowhere.yaml"]
    env = cluster.environment | environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=900, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_whoever_joins_without_the_token_is_told(cluster: LocalCluster, workspace: Path) -> None:
    command = [sys.executable, "-m", "hbt_ray", "train", str(workspace / "train.yaml"), "name=tokenless"]
    env = cluster.environment | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": cluster.gcs}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=900, check=False)
    assert done.returncode == 2
    assert f"ResourceError: RAY_ADDRESS={cluster.gcs} does not answer" in done.stderr
    assert "if it asks for a token set RAY_AUTH_MODE=token" in done.stderr


def test_training_is_followed_and_every_metric_of_the_dashboard_is_there(
    cluster: LocalCluster, workspace: Path
) -> None:
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            seen.update(cluster.metrics)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        code, out, told = followed(cluster, "--name", "first", "train", workspace / "train.yaml")
    finally:
        over.set()
        watching.join()
    assert code == 0, out + told
    assert "ray job submit --address" in told
    assert "--submission-id first" in told
    assert re.search(r"\b150\b", out)
    assert (RunDir(workspace / "runs" / "small").model / "model.safetensors").is_file()
    board = json.loads((CLUSTER / "grafana" / "hbt_ray.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = {name for query in queries for name in re.findall(r"\b(?:ray|autoscaler)_\w+", query)}
    assert {name for name in asked - seen if "gpu" not in name and "gram" not in name} == set()


def test_a_second_job_of_that_name(cluster: LocalCluster, workspace: Path) -> None:
    code, _, told = followed(cluster, "--name", "first", "train", workspace / "train.yaml")
    assert code == 2
    assert "--name first: the cluster has a job of this name" in told


@pytest.mark.soak
def test_gpus_that_no_node_has_are_refused_within_a_minute(cluster: LocalCluster, workspace: Path) -> None:
    begin = time.monotonic()
    code, out, _ = followed(cluster, "train", workspace / "train.yaml", "name=gpus", "workers.gpu=true")
    assert code == 1
    assert re.search(r"ResourceError: .*GPU", out)
    assert time.monotonic() - begin < 90, "a minute, and the job's start"


def at_work(cluster: LocalCluster, seconds: float = 60) -> list[str]:
    """Ray workers that do something, after some time to end."""
    end = time.monotonic() + seconds
    while True:
        names = []
        for process in cluster.processes:
            try:
                name = Path(f"/proc/{process}/cmdline").read_text("utf-8").replace("\0", " ")
            except OSError:
                continue
            names.append(name.strip())
        busy = [name for name in names if name.startswith("ray::") and not name.startswith(RAYS_OWN)]
        if not busy or time.monotonic() > end:
            return busy
        time.sleep(0.5)


@pytest.mark.soak
def test_the_whole_way_by_rays_own_program(cluster: LocalCluster, workspace: Path) -> None:
    """Data, training, evaluation and a search, by `ray job submit` as cluster/README.md has it."""
    store = {"path": str(workspace / "facts"), "sources": [{"kind": "worldfacts", "languages": ["de", "en"]}]}
    (workspace / "store.yaml").write_text(yaml.safe_dump(store))
    runs = workspace / "runs"
    jobs: list[list[str | Path]] = [
        ["prepare", workspace / "store.yaml"],
        ["train", workspace / "train.yaml", "name=whole", f"store={workspace / 'facts'}", "optimiser.steps=40"],
        ["evaluate", runs / "whole", "--task", "worldfacts", "encoder.workers=2"],
        ["tune", "tune_spaces.mixing_policy", "--config", workspace / "train.yaml", "search.budget.trials=3",
         "name=searched", "optimiser.steps=20", "checkpoints.every=10", f"validation.store={workspace / 'dev'}"],
    ]  # fmt: skip
    for words in jobs:
        ray = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--working-dir", "."]
        command = [*ray, "--runtime-env", "cluster/runtime_env.yaml", "--", "python", "-m", "hbt_ray", *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=cluster.environment, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert (runs / "searched" / "report.html").is_file()
    assert at_work(cluster) == []
