"""Training under Ray Train, two real workers: exact resume, equal batches, clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.tokenise import tokenise
from hbt_ray.errors import (
    CheckpointError,
    ConfigError,
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
from tests.refused import refused
from tests.small_data import small_run, small_store

pytestmark = pytest.mark.usefixtures("ray_session")


def latest_checkpoint(run: RunDir) -> Path | None:
    newest = CheckpointDirectory(run.checkpoints).newest()
    return newest[0] if newest else None


def trained(config: TrainConfig, until: int | None = None) -> list[StepMetrics]:
    outcomes: list[StepMetrics] = []
    fit(config, outcomes.append, until)
    return outcomes


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    small_store(folder / "store")
    return folder


@pytest.fixture(scope="module")
def undisturbed(workspace: Path, ray_session: None) -> TrainConfig:
    """A run of 40 steps on two workers."""
    config = small_run(workspace)
    outcomes = trained(config)
    assert [outcome.step for outcome in outcomes] == list(range(40))
    return config


def test_steps_follow_the_plan_and_the_loss_falls(workspace: Path, undisturbed: TrainConfig) -> None:
    plan = Plan(Store(workspace / "store").manifest, undisturbed.plan)
    curve = undisturbed.run.curve()
    assert [(row["kind"], row["language"]) for row in curve] == [
        (plan.batch(step).kind, plan.batch(step).language) for step in range(40)
    ]
    losses = [row["loss"] for row in curve]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


@pytest.mark.soak  # tests/train/test_faults.py continues runs that were ended otherwise.
def test_a_run_stopped_at_17_and_continued_has_equal_weights(workspace: Path, undisturbed: TrainConfig) -> None:
    config = small_run(workspace, "name=stopped")
    assert [outcome.step for outcome in trained(config, until=17)] == list(range(17))
    assert [outcome.step for outcome in trained(config)] == list(range(17, 40))
    ours, theirs = latest_checkpoint(config.run), latest_checkpoint(undisturbed.run)
    assert ours is not None
    assert theirs is not None
    for name in ("weights.safetensors", "optimiser.pt", "checkpoint.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert [row["loss"] for row in config.run.curve()] == [row["loss"] for row in undisturbed.run.curve()]


def test_a_finished_run_is_left_as_it_is(undisturbed: TrainConfig) -> None:
    assert trained(undisturbed) == []


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


def test_another_plan_is_refused_with_both_values(undisturbed: TrainConfig, workspace: Path) -> None:
    before = undisturbed.run.config.read_bytes()
    with pytest.raises(PlanMismatch, match=r"plan\.alpha=0\.5, this run has 0\.25"):
        fit(small_run(workspace, "plan.alpha=0.25"), lambda _: None)
    with pytest.raises(ConfigError) as caught:
        fit(small_run(workspace, "model.width=64"), lambda _: None)
    assert caught.value.code == "OTHER_MODEL"
    assert undisturbed.run.config.read_bytes() == before


def test_a_checkpoint_cut_short_is_refused(workspace: Path, undisturbed: TrainConfig) -> None:
    config = small_run(workspace, "name=cut", "optimiser.steps=50")
    shutil.copytree(undisturbed.run.root, config.run.root)
    for weights in config.run.checkpoints.glob("step-*/weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step-00000040.*weights\.safetensors") as caught:
        fit(config, lambda _: None)
    assert caught.value.code == "DAMAGED_CHECKPOINT"


@pytest.mark.soak  # tests/train/test_train_step.py has it without Ray.
def test_a_loss_that_is_not_finite_ends_in_one_named_error(workspace: Path) -> None:
    config = small_run(workspace, "name=hot", "optimiser.learning_rate=1.0e+30", "optimiser.warmup=0")
    with pytest.raises(NonFiniteLoss) as caught:
        fit(config, lambda _: None)
    assert caught.value.step >= 1


def test_impossible_runs_are_refused_before_anything_is_written(workspace: Path) -> None:
    def check(error: type[Exception], match: str, *overrides: str) -> None:
        config = small_run(workspace, "name=impossible", *overrides)
        with pytest.raises(error, match=match):
            fit(config, lambda _: None)
        assert not config.run.checkpoints.exists()

    check(ConfigError, r"batch_size=1 leaves some of 2 workers without a row", "plan.batch_size=1")
    check(PlanError, "at least two languages", "plan.languages=[de]", "plan.policy=cross")
    check(StoreError, "hbt prepare", "store=nowhere")
    assert not small_run(workspace, "name=impossible").run.root.exists()
    check(ResourceError, "7 workers .* need 7 CPU .the cluster has 6, . of them free", "workers.count=7")
    check(ResourceError, "7 workers .* need 7 CPU .the cluster has 6,", "workers.count=[7, 9]")


@pytest.mark.parametrize(("count", "word"), [("[4, 2]", "smaller one first"), ("[0, 2]", "greater than 0")])
def test_impossible_numbers_of_workers_are_refused(workspace: Path, count: str, word: str) -> None:
    with refused("INVALID_CONFIG", word):
        small_run(workspace, f"workers.count={count}")


def test_a_folder_that_is_no_run_is_left_alone(workspace: Path) -> None:
    config = small_run(workspace, "name=thesis")
    config.run.root.mkdir(parents=True)
    (config.run.root / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError) as caught:
        open_run(config)
    assert caught.value.code == "NOT_A_RUN"
    assert [path.name for path in config.run.root.iterdir()] == ["thesis.tex"]


def test_metrics_are_complete_lines(undisturbed: TrainConfig) -> None:
    rows = [json.loads(line) for line in undisturbed.run.metrics.read_text().splitlines()]
    assert {"step", "kind", "language", "loss", "learning_rate", "pairs_per_second", "stall_seconds"} <= rows[0].keys()
