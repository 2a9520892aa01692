"""Trackers: every row can be read back once, a continued run goes on, and a failure harms nothing."""

from __future__ import annotations

import json
import logging
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import append_json_lines, read_checked_json
from hbt_ray.train.step.train_step import StepMetrics
from hbt_ray.train.trackers import TensorBoard, TrackerLogger, TrackerPosition, TrackerRow, TrackersConfig, flatten

SETTINGS: dict[str, Any] = {"name": "x", "plan": {"alpha": 0.5, "languages": ["de", "en"]}}
STEPS_BEFORE = 8
"""Steps that a driver logs before it dies; its last checkpoint is that of step 5."""
VALIDATED = {5: {"step": 5, "AP": 0.3, "dev_set": "abc"}}


def step_metrics(step: int) -> StepMetrics:
    kind = "mono" if step % 2 else "cross"
    parts = {"info_nce": 0.5, "lakda": 0.25}
    return StepMetrics(step, kind, "de", 1.0 / (step + 1), 0.1, 2.0, 300.0, 0.0, parts, 0.05 + step / 100)


def record(run: RunDir, metrics: StepMetrics) -> None:
    """Append the row of a step, as rank 0 does."""
    append_json_lines(run.metrics, [asdict(metrics)])


def continue_run(run: RunDir, *names: str) -> None:
    """From step 5, after a driver died at 8: steps 5 to 11, some of them twice as workers restart, and validations."""
    with TrackerLogger(run, TrackersConfig.make({"use": names}, "test"), SETTINGS, 5) as trackers:
        for step in [*range(5, 9), 6, 7, 8, *range(9, 12)]:
            trackers.log_step(step_metrics(step))
        trackers.log_validations({10: {"step": 10, "AP": 0.4}, **VALIDATED})


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose driver was killed and started again, with all trackers."""
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    run, names = RunDir(tmp_path_factory.mktemp("tracked")), ("tensorboard", "mlflow", "wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr("hbt_ray.train.trackers.CLOSING_SECONDS", 300.0)
        command = [sys.executable, "-m", "tests.train.driver_with_trackers", str(run.root), *names]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert result.returncode == -signal.SIGKILL, result.stderr[-2_000:]
        continue_run(run, *names)
    return run


def test_settings_are_named_as_on_the_command_line() -> None:
    assert flatten(SETTINGS) == {"name": "x", "plan.alpha": 0.5, "plan.languages": ["de", "en"]}


@pytest.mark.integration
def test_tensorboard_has_every_step_once(continued: RunDir) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(continued.root / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("loss/all")] == list(range(12))
    assert [event.value for event in read.Scalars("loss/all")] == pytest.approx([1 / (n + 1) for n in range(12)])
    assert [event.step for event in read.Scalars("loss/mono")] == [1, 3, 5, 7, 9, 11]
    assert {event.step: event.value for event in read.Scalars("dev/AP")} == pytest.approx({5: 0.3, 10: 0.4})
    assert len(read.Scalars("dev/AP")) == 2
    assert {"parts/info_nce", "parts/lakda", "learning_rate", "temperature", "speed/stall_seconds"} <= set(
        read.Tags()["scalars"]
    )


@pytest.mark.integration
def test_mlflow_has_one_run_with_settings_and_every_step_once(continued: RunDir) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{continued.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hbt_ray")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["plan.alpha"] == "0.5"
    for name, steps in {"loss/all": list(range(12)), "dev/AP": [5, 10], "temperature": list(range(12))}.items():
        assert sorted(metric.step for metric in client.get_metric_history(run.info.run_id, name)) == steps, name


@pytest.mark.integration
def test_wandb_goes_on_in_one_run_and_drops_no_validation(continued: RunDir) -> None:
    files = sorted((continued.root / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({path.name for path in files}) == 1  # The id.
    rows = [row for path in files for row in wandb_rows(path)]
    assert Counter(row["step"] for row in rows if "loss/all" in row) == Counter(range(12))
    assert {row["step"]: row["dev/AP"] for row in rows if "dev/AP" in row} == {5: 0.3, 10: 0.4}


def wandb_rows(path: Path) -> Iterator[dict[str, Any]]:
    """LevelDB's log: after seven bytes, records of checksum (4 bytes), length (2) and type (1: whole), then a body."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at = path.read_bytes(), 7
    assert len(data) < 32_768  # One block.
    while at + 7 <= len(data):
        length, kind = struct.unpack_from("<HB", data, at + 4)
        assert kind == 1
        record = Record()
        record.ParseFromString(data[at + 7 : at + 7 + length])
        at += 7 + length
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_rows_that_a_tracker_missed_are_logged_when_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, log = RunDir(tmp_path), TensorBoard.log

    def fail(self: TensorBoard, rows: Sequence[TrackerRow]) -> None:
        if any(row.step >= 2 for row in rows):
            raise ConnectionError("the server is gone")
        log(self, rows)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(TensorBoard, "log", fail)
        with TrackerLogger(run, TrackersConfig(), SETTINGS, 0) as trackers:
            for step in range(5):
                record(run, step_metrics(step))
                trackers.log_step(step_metrics(step))
    assert caplog.text.count("the server is gone") == 1
    continue_run(run, "tensorboard")
    read = events.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("loss/all")] == list(range(12))


def test_tensorboard_rows_are_in_the_file_when_log_returns(tmp_path: Path) -> None:
    """The position that is saved next says that they are, and the process may be killed at any time."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = TensorBoard(RunDir(tmp_path), TrackersConfig(), SETTINGS, TrackerPosition())
    for step in range(3):
        tracker.log([TrackerRow(step, {f"parts/{n}": 0.5 for n in range(20)})])
        read = events.EventAccumulator(str(tmp_path / "tensorboard"))
        read.Reload()
        assert [event.step for event in read.Scalars("parts/19")] == list(range(step + 1))


def test_a_tracker_that_hangs_delays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(TensorBoard, "log", lambda *_: answer.wait())
    monkeypatch.setattr("hbt_ray.train.trackers.CLOSING_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING), TrackerLogger(RunDir(tmp_path), TrackersConfig(), SETTINGS, 0) as trackers:
        for step in range(3):
            trackers.log_step(step_metrics(step))  # Returns, though the answer comes only below.
    assert "tensorboard has not taken the last rows of the run within 0.2 s" in caplog.text
    answer.set()


def test_an_unreachable_server_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = TrackersConfig(use=("tensorboard", "mlflow"), mlflow_uri="http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING), TrackerLogger(RunDir(tmp_path), config, SETTINGS, 0) as trackers:
        trackers.log_step(step_metrics(0))
    assert caplog.text.count("mlflow no longer takes the rows of the run") == 1
    assert read_checked_json(tmp_path / "trackers.json")["tensorboard"]["step"] == 0


def test_a_tracker_learns_whether_the_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[bool] = []
    monkeypatch.setattr(TensorBoard, "close", lambda self, *, failed: failures.append(failed))
    with pytest.raises(KeyError), TrackerLogger(RunDir(tmp_path), TrackersConfig(), SETTINGS, 0):
        raise KeyError
    with TrackerLogger(RunDir(tmp_path), TrackersConfig(), SETTINGS, 0):
        pass
    assert failures == [True, False]


def test_destinations_differ_by_server_and_project() -> None:
    config = TrackersConfig(use=("mlflow",), mlflow_uri="http://here")
    assert config.destination("mlflow") == config.model_copy().destination("mlflow")
    assert config.destination("mlflow") != config.model_copy(update={"mlflow_uri": "http://there"}).destination(
        "mlflow"
    )
    assert config.destination("mlflow") != config.model_copy(update={"project": "other"}).destination("mlflow")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbt_ray.train.trackers.find_spec", lambda name: None if name in ("wandb", "alembic") else sys)
    TrackersConfig(use=("tensorboard", "mlflow"), mlflow_uri="http://server").check_packages()
    with pytest.raises(ConfigError, match=r"wandb is not installed"):
        TrackersConfig(use=("tensorboard", "wandb")).check_packages()
    with pytest.raises(ConfigError, match=r"alembic is not installed"):
        TrackersConfig(use=("mlflow",)).check_packages()


def test_damaged_positions_are_a_warning_and_begin_no_second_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    with TrackerLogger(run, TrackersConfig(), SETTINGS, 0) as trackers:
        trackers.log_step(step_metrics(0))
    changed = run.trackers.read_bytes().replace(b'"step": 0', b'"step": 8')
    run.trackers.write_bytes(changed)
    with caplog.at_level(logging.WARNING), TrackerLogger(run, TrackersConfig(), SETTINGS, 1) as trackers:
        trackers.log_step(step_metrics(1))
    assert str(run.trackers) in caplog.text
    assert run.trackers.read_bytes() == changed
