"""Of two commands on one run, search, result, index or set of negatives the second is refused and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from hbt_ray.cli.evaluate import evaluate_bm25, evaluate_tasks
from hbt_ray.cli.index import build_index
from hbt_ray.cli.posthoc import fit_transform
from hbt_ray.cli.train import train_run
from hbt_ray.console import Screen
from hbt_ray.data.store.store import Store
from hbt_ray.errors import LockedError
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.mining.candidates import MineConfig
from hbt_ray.retrieval.mining.mine import mine
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.tasks import open_task
from hbt_ray.retrieval.transforms import make_method
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import exclusive_lock
from hbt_ray.train.config import TrainConfig
from tests.small_data import small_run, small_store
from tests.tune.sweep import prepared, searched

SCREEN, ENCODER = Screen(silent=True), EncoderConfig(model="unused")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of `path` in another thread, as another command would."""
    ready, over = Event(), Event()

    def hold() -> None:
        with exclusive_lock(path, "the first command"):
            ready.set()
            over.wait()

    with ThreadPoolExecutor(1) as pool:
        first: Future[None] = pool.submit(hold)
        assert ready.wait(60)
        try:
            yield
        finally:
            over.set()
            first.result()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locks")
    small_store(folder / "store")
    small_store(folder / "dev", 30)
    return folder


def _train(workspace: Path) -> Any:
    return train_run(small_run(workspace, "name=x"), SCREEN)


def _search(workspace: Path) -> Any:
    return searched(prepared(workspace, "x"))


def _evaluate(workspace: Path) -> Any:
    return evaluate_tasks(RunDir(workspace / "runs" / "x"), ENCODER, [open_task("worldfacts")], SCREEN)


def _evaluate_bm25(workspace: Path) -> Any:
    return evaluate_bm25(RunDir(workspace / "runs" / "x"), [open_task("worldfacts")], SCREEN)


def _fit(workspace: Path) -> Any:
    path = workspace / "runs" / "x.safetensors"
    method = make_method("centering", "test")
    return fit_transform(Store(workspace / "store"), ENCODER, method, path, workspace / "cache", SCREEN)


def _mine(workspace: Path) -> Any:
    return mine(Store(workspace / "store"), ENCODER, MineConfig(), workspace / "runs" / "x", name="x", screen=SCREEN)


def _index(workspace: Path) -> Any:
    return build_index(ENCODER, SimpleNamespace(num_rows=0), workspace / "runs" / "index", IndexConfig(), SCREEN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (_train, "x"),
        (_search, "x"),
        (_evaluate, "x/results/worldfacts"),
        (_evaluate_bm25, "x/results/worldfacts"),
        (_fit, "x.safetensors"),
        (_mine, "x"),
        (_index, "index"),
    ],
)
def test_the_second_command_is_refused_and_changes_nothing(
    workspace: Path, command: Callable[[Path], Any], place: str
) -> None:
    path = workspace / "runs" / place
    with held(path):
        before = sorted(workspace.rglob("*"))
        with pytest.raises(LockedError) as caught:
            command(workspace)
        assert sorted(workspace.rglob("*")) == before
    assert caught.value.owner["purpose"] == "the first command"
    assert caught.value.owner["pid"] == os.getpid()


def test_other_tasks_of_a_model_can_be_evaluated_meanwhile(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And while the run is locked by training that goes on; but not two tasks of which one is being judged."""
    run, other = RunDir(workspace / "runs" / "y"), open_task("worldfacts")
    begun: list[str] = []
    monkeypatch.setattr(
        "hbt_ray.retrieval.evaluate.evaluate_task", lambda encoder, task, folder, **_: begun.append(folder.name)
    )
    with held(run.root), held(run.result("flores")):
        assert len(evaluate_tasks(run, ENCODER, [other], SCREEN)) == 1
        assert begun == ["worldfacts"]
        with pytest.raises(LockedError):
            evaluate_tasks(run, ENCODER, [other, SimpleNamespace(name="flores")], SCREEN)  # type: ignore[list-item]
    assert begun == ["worldfacts"], "all locks are taken before the first task begins"


@pytest.mark.integration
def test_the_command_line_refuses_before_anything_starts(workspace: Path) -> None:
    config: TrainConfig = small_run(workspace, "name=z")
    (workspace / "z.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "hbt_ray", "train", str(workspace / "z.yaml")]
    with held(config.run.root):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        owner = json.loads((workspace / "runs" / ".z.lock").read_text())
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert owner["host"] in done.stderr
    assert str(owner["pid"]) in done.stderr
    assert not config.run.root.exists()
