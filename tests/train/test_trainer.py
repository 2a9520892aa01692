"""Training under Ray Train, two real workers: exact resume, equal batches, clear refusals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.tokenise import tokenise
from hbt_ray.errors import (
    CheckpointError,
    ConfigError,
    NegativesError,
    NonFiniteLoss,
    PlanError,
    PlanMismatch,
    ResourceError,
    StoreError,
)
from hbt_ray.model.build import tokenising_config
from hbt_ray.model.loading import load_encoder
from hbt_ray.model.microbatch import encoder_features
from hbt_ray.run_dir import RunDir
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import fit, open_run
from hbt_ray.train.export import export
from hbt_ray.train.step.train_step import StepMetrics
from tests.worlds import small_run, small_store, write_negatives

pytestmark = pytest.mark.usefixtures("ray_session")


def latest_checkpoint(run: RunDir) -> Path | None:
    newest = CheckpointDirectory(run.checkpoints).newest()
    return newest[0] if newest else None


def trained(config: TrainConfig, until: int | None = None) -> list[StepMetrics]:
    outcomes: list[StepMetrics] = []
    fit(config, outcomes.append, until)
    return outcomes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    small_store(folder / "store")
    return folder


def mined_table() -> Indices:
    """Up to four other items for each of 60, never the one that shares the passage; every seventh has none."""
    items = np.arange(60)[:, None]
    table = (items + np.array([2, 17, 31, 40])) % 60
    table[::7] = -1
    return table


def mined_run(world: Path, *overrides: str) -> TrainConfig:
    """The small run with two mined negatives a row."""
    folder = world / "mined"
    if not folder.exists():
        write_negatives(folder, Store(world / "store").manifest, {"colours": mined_table()})
    return small_run(world, "name=mined", "plan.negatives=2", f"negatives={folder}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(world: Path, ray_session: None) -> TrainConfig:
    """A run of 40 steps on two workers."""
    config = small_run(world)
    outcomes = trained(config)
    assert [outcome.step for outcome in outcomes] == list(range(40))
    return config


@pytest.fixture(scope="module")
def undisturbed_mined(world: Path, ray_session: None) -> TrainConfig:
    """The same with mined negatives."""
    config = mined_run(world)
    trained(config)
    return config


def test_steps_follow_the_plan_and_the_loss_falls(world: Path, undisturbed: TrainConfig) -> None:
    plan = Plan(Store(world / "store").manifest, undisturbed.plan)
    curve = undisturbed.run.curve()
    assert [(row["kind"], row["language"]) for row in curve] == [
        (plan.batch(step).kind, plan.batch(step).language) for step in range(40)
    ]
    losses = [row["loss"] for row in curve]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


@pytest.mark.integration
def test_a_run_stopped_at_17_and_continued_has_equal_weights(world: Path, undisturbed: TrainConfig) -> None:
    config = small_run(world, "name=stopped")
    assert [outcome.step for outcome in trained(config, until=17)] == list(range(17))
    assert [outcome.step for outcome in trained(config)] == list(range(17, 40))
    ours, theirs = latest_checkpoint(config.run), latest_checkpoint(undisturbed.run)
    assert ours is not None
    assert theirs is not None
    for name in ("weights.safetensors", "optimiser.pt", "checkpoint.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert [row["loss"] for row in config.run.curve()] == [row["loss"] for row in undisturbed.run.curve()]


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker in /proc")
def test_a_worker_killed_in_the_middle_changes_nothing_with_mined_negatives_too(
    world: Path, undisturbed: TrainConfig, undisturbed_mined: TrainConfig
) -> None:
    config = mined_run(world, "name=killed", "workers.max_failures=1")
    steps: list[int] = []

    def watch(outcome: StepMetrics) -> None:
        if not steps:  # Outcomes come twice a second; most of the 40 steps are still to do.
            os.kill(training_processes()[0], signal.SIGKILL)
        steps.append(outcome.step)

    fit(config, watch)
    assert {after for before, after in pairwise(steps) if after != before + 1} <= {
        0,
        10,
        20,
        30,
    }  # Checkpoints end there.
    ours, theirs = latest_checkpoint(config.run), latest_checkpoint(undisturbed_mined.run)
    assert ours is not None
    assert theirs is not None
    for name in ("weights.safetensors", "optimiser.pt", "checkpoint.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    losses = [[row["loss"] for row in run.curve()] for run in (config.run, undisturbed_mined.run, undisturbed.run)]
    assert losses[0] == losses[1]
    assert losses[1][0] > losses[2][0]  # The same weights and rows, and more candidates.


@pytest.mark.integration
def test_a_run_goes_on_with_its_own_negatives_only(world: Path, undisturbed_mined: TrainConfig) -> None:
    open_run(mined_run(world))
    with pytest.raises(PlanMismatch, match=r"plan\.negatives=2, this run has 1"):
        open_run(mined_run(world, "plan.negatives=1"))
    with pytest.raises(PlanMismatch, match=r"plan\.negatives=2, this run has 0"):
        open_run(mined_run(world, "plan.negatives=0", "negatives=null"))
    store, other = Store(world / "store").manifest, world / "other"
    write_negatives(other, store, {"colours": np.roll(mined_table(), 1, axis=1)})
    with pytest.raises(PlanMismatch, match=r"plan\.negatives_data="):
        open_run(mined_run(world, f"negatives={other}"))
    (other / "colours.arrow").write_bytes((other / "colours.arrow").read_bytes()[:-8])
    with pytest.raises(NegativesError, match="mine the store again"):
        open_run(mined_run(world, f"negatives={other}"))


def training_processes() -> list[int]:
    """Ray Train's workers under this process: children of our raylet, which is our child."""

    def parent(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    newest = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            pid = int(path.parent.name)
            if path.read_bytes().startswith(b"ray::RayTrainWorker") and parent(parent(pid)) == os.getpid():
                newest.append(pid)
    return sorted(newest)


@pytest.mark.integration
def test_workers_that_hold_every_cpu_are_fed_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.train.all_reserved", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.split() == [str(step) for step in range(12)]


def test_a_finished_run_is_left_as_it_is(undisturbed: TrainConfig) -> None:
    assert trained(undisturbed) == []


@pytest.mark.integration
def test_one_worker_learns_what_two_learn(world: Path, undisturbed: TrainConfig) -> None:
    single = small_run(world, "name=single", "workers.count=1", "optimiser.steps=40")
    outcomes = trained(single, until=3)
    for outcome, row in zip(outcomes, undisturbed.run.curve(), strict=False):
        assert outcome.kind == row["kind"]
        if outcome.step == 0:  # Dropout differs by rank, so only the first forward pass of equal weights is comparable.
            assert outcome.loss == pytest.approx(row["loss"], rel=0.05)


def test_the_exported_folder_gives_the_trainers_vectors(undisturbed: TrainConfig) -> None:
    from sentence_transformers import SentenceTransformer

    run = undisturbed.run
    assert export(run) == 40
    latest = latest_checkpoint(run)
    assert latest is not None
    trainer = load_encoder(run.base).eval()
    weights = load_file(latest / "weights.safetensors")
    trainer.load_state_dict(weights)
    library = SentenceTransformer(str(run.model), device="cpu")
    how = tokenising_config(trainer, undisturbed.model)
    texts = ["What colour is thing 7?", "Welche Farbe hat Ding 12?", "ما لون شيء 3?"]
    tokens = tokenise(how.tokenizer_json, how.question_prompt, texts, how.max_question_length)
    with torch.no_grad():
        ours = trainer(encoder_features(tokens, trainer.tokenizer.pad_token_id, torch.device("cpu")))[
            "sentence_embedding"
        ]
    assert np.abs(ours.numpy() - library.encode_query(texts)).max() < 1e-6
    assert not np.allclose(ours.numpy(), load_encoder(run.base).encode_query(texts), atol=1e-2)


def test_another_plan_is_refused_with_both_values(undisturbed: TrainConfig, world: Path) -> None:
    before = undisturbed.run.config.read_bytes()
    with pytest.raises(PlanMismatch, match=r"plan\.alpha=0\.5, this run has 0\.25"):
        fit(small_run(world, "plan.alpha=0.25"), lambda _: None)
    with pytest.raises(ConfigError) as caught:
        fit(small_run(world, "model.width=64"), lambda _: None)
    assert caught.value.code == "OTHER_MODEL"
    assert undisturbed.run.config.read_bytes() == before


@pytest.mark.integration
def test_a_checkpoint_cut_short_is_refused(world: Path) -> None:
    config = small_run(world, "name=cut", "workers.count=1", "optimiser.steps=4")
    trained(config, until=2)
    latest = latest_checkpoint(config.run)
    assert latest is not None
    weights = latest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step-00000002.*weights\.safetensors") as caught:
        fit(config, lambda _: None)
    assert caught.value.code == "DAMAGED_CHECKPOINT"


@pytest.mark.integration
def test_a_loss_that_is_not_finite_ends_in_one_named_error(world: Path) -> None:
    config = small_run(world, "name=hot", "optimiser.learning_rate=1.0e+30", "optimiser.warmup=0")
    with pytest.raises(NonFiniteLoss) as caught:
        fit(config, lambda _: None)
    assert caught.value.step >= 1


def test_impossible_runs_are_refused_before_anything_is_written(world: Path) -> None:
    def refused(error: type[Exception], match: str, *overrides: str) -> None:
        config = small_run(world, "name=impossible", *overrides)
        with pytest.raises(error, match=match):
            fit(config, lambda _: None)
        assert not config.run.checkpoints.exists()

    refused(ConfigError, r"batch_size=1 leaves some of 2 workers without a row", "plan.batch_size=1")
    refused(PlanError, "at least two languages", "plan.languages=[de]", "plan.policy=cross")
    refused(StoreError, "hbt prepare", "store=nowhere")
    assert not small_run(world, "name=impossible").run.root.exists()
    refused(ResourceError, "7 workers .* need 7 CPU .the cluster has 6, . of them free", "workers.count=7")
    refused(ResourceError, "7 workers .* need 7 CPU .the cluster has 6,", "workers.count=[7, 9]")


def test_a_folder_that_is_no_run_is_left_alone(world: Path) -> None:
    config = small_run(world, "name=thesis")
    config.run.root.mkdir(parents=True)
    (config.run.root / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError) as caught:
        open_run(config)
    assert caught.value.code == "NOT_A_RUN"
    assert [path.name for path in config.run.root.iterdir()] == ["thesis.tex"]


def test_metrics_are_complete_lines(undisturbed: TrainConfig) -> None:
    rows = [json.loads(line) for line in undisturbed.run.metrics.read_text().splitlines()]
    assert {"step", "kind", "language", "loss", "learning_rate", "pairs_per_second", "stall_seconds"} <= rows[0].keys()
