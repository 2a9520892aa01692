"""Trackers: what they were given can be read back, once; a continued run goes on; a failure harms nothing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.run import Run
from hbt_ray.train.engine.loop import Outcome
from hbt_ray.train.trackers import Log, TrackersConfig
from hbt_ray.train.trackers.tensorboard import TensorBoard
from hbt_ray.train.trackers.tracker import flat

SETTINGS: dict[str, Any] = {"name": "x", "plan": {"alpha": 0.5, "languages": ["de", "en"]}}


def outcome(step: int) -> Outcome:
    kind = "mono" if step % 2 else "cross"
    return Outcome(step, kind, "de", 1.0 / (step + 1), 0.1, 2.0, 300.0, 0.0, {"info_nce": 0.5, "lakda": 0.25})


def logged(run: Run, name: str) -> None:
    """Ten steps, three of them repeated; then the run is continued from step 8."""
    config = TrackersConfig(use=(name,))
    with Log(run, config, SETTINGS, 0) as log:
        for step in [*range(8), 5, 6, 7, 8, 9]:
            log.outcome(outcome(step))
        log.dev({5: {"step": 5, "AP": 0.3, "pool": "abc"}})
    with Log(run, config, SETTINGS, 8) as log:
        for step in range(8, 12):
            log.outcome(outcome(step))


def test_settings_are_named_as_on_the_command_line() -> None:
    assert flat(SETTINGS) == {"name": "x", "plan.alpha": 0.5, "plan.languages": ["de", "en"]}


def test_tensorboard_has_every_step_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logged(Run(tmp_path), "tensorboard")
    read = events.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("loss/all")] == list(range(12))
    assert [event.value for event in read.Scalars("loss/all")] == pytest.approx([1 / (n + 1) for n in range(12)])
    assert [event.step for event in read.Scalars("loss/mono")] == [1, 3, 5, 7, 9, 11]
    assert [(event.step, event.value) for event in read.Scalars("dev/AP")] == [(5, pytest.approx(0.3))]
    assert {"parts/info_nce", "parts/lakda", "learning_rate", "speed/stall_seconds"} <= set(read.Tags()["scalars"])


def test_mlflow_has_one_run_with_settings_and_curves(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    logged(Run(tmp_path), "mlflow")
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hbt_ray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["plan.alpha"] == "0.5"
    assert {metric.step for metric in client.get_metric_history(run.info.run_id, "loss/all")} == set(range(12))
    assert run.data.metrics["dev/AP"] == pytest.approx(0.3)


def test_wandb_keeps_its_id_and_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged(Run(tmp_path), "wandb")
    known = (tmp_path / "wandb.id").read_text(encoding="utf-8")
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{known}/*.wandb"))
    assert files
    assert all(path.stat().st_size > 0 for path in files)


def test_a_tracker_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoard, "log", gone)
    with caplog.at_level(logging.WARNING), Log(Run(tmp_path), TrackersConfig(), SETTINGS, 0) as log:
        for step in range(3):
            log.outcome(outcome(step))
    assert caplog.text.count("the server is gone") == 1


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbt_ray.train.trackers.config.find_spec", lambda name: None if name == "wandb" else sys)
    TrackersConfig(use=("tensorboard", "mlflow")).require()
    with pytest.raises(ConfigError, match=r"pip install 'hbt-ray\[wandb\]'"):
        TrackersConfig(use=("tensorboard", "wandb")).require()
