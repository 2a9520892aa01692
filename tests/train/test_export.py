"""The export: the weights that were asked for, as a folder that anyone can load, and a card that names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from hbt_ray.data.store.store import Store
from hbt_ray.errors import CheckpointError, ModelError
from hbt_ray.model.files import check_files
from hbt_ray.model.trainable_encoder import load_for_training
from hbt_ray.report import model_card
from hbt_ray.report.model_card import write_card
from hbt_ray.storage import atomic_folder, file_sha256
from hbt_ray.train.checkpoint import format as checkpoint_format
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import open_run
from hbt_ray.train.export import ExportRecord, export
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.step.train_step import TrainStep
from hbt_ray.train.trackers import TrackersConfig
from hbt_ray.train.validation.record import ValidationRecord
from hbt_ray.train.validation.runner import validate
from tests.model.model_folders import edit_json, save_scratch_encoder
from tests.small_data import small_run, small_store
from tests.train.batches import NUM_ROWS, batch

TEXTS = ["What colour is thing 7?", "Welche Farbe hat Ding 12?", "ما لون شيء 3?"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    small_store(folder / "store")
    return folder


def train_steps(config: TrainConfig, steps: tuple[int, ...]) -> TrainStep:
    """A run with checkpoints after so many steps of made-up batches."""
    open_run(config)
    encoder = load_for_training(config.run.base, config.model)
    padding_id, objective = encoder.tokenizer.pad_token_id, Objective(config.loss)
    train_step = TrainStep(encoder, config.optimiser, objective, padding_id=padding_id, rank_sizes=(NUM_ROWS,))
    checkpoints = CheckpointDirectory(config.run.checkpoints)
    for step in range(max(steps)):
        train_step.run(batch(step))
        if step + 1 in steps:
            with atomic_folder(checkpoints.path(step + 1)) as folder:
                checkpoint_format.write_checkpoint(folder, checkpoint_format.take_snapshot(train_step, step + 1, {}))
    return train_step


def vectors(config: TrainConfig) -> torch.Tensor:
    """By the library alone."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(config.run.model), device="cpu")
    assert not any("lora" in name for name in library.state_dict())
    made: torch.Tensor = library.encode_query(TEXTS, convert_to_tensor=True)
    return made


def test_a_run_without_a_checkpoint_has_nothing_to_export(workspace: Path) -> None:
    config = small_run(workspace, "name=empty")
    open_run(config)
    with pytest.raises(CheckpointError, match="train it first") as error:
        export(config.run)
    assert error.value.code == "NO_CHECKPOINT"
    assert ExportRecord.load(config.run) is None


@pytest.mark.parametrize("lora", ["null", "{rank: 4, targets: all-linear}"])
@pytest.mark.parametrize("average", ["null", "0.9"])
def test_the_library_gives_the_trainers_vectors(workspace: Path, lora: str, average: str) -> None:
    name = f"{len(lora)}-{average}"
    config = small_run(workspace, f"name={name}", f"model.lora={lora}", f"optimiser.ema={average}")
    train_step = train_steps(config, (3, 6))
    assert export(config.run) == 6
    encoder = train_step.encoder.eval()
    last = encoder.encode_query(TEXTS, convert_to_tensor=True)
    if train_step.ema is not None:
        parameters = dict(encoder.named_parameters())
        for key, value in train_step.ema.values.items():
            parameters[key].data.copy_(value)
    expected = encoder.encode_query(TEXTS, convert_to_tensor=True)
    assert (vectors(config) - expected).abs().max() < 1e-6
    assert ((expected - last).abs().max() > 1e-4) == (train_step.ema is not None)
    record = ExportRecord.load(config.run)
    assert record is not None
    assert record == ExportRecord(6, averaged=average != "null", lora_rank=None if lora == "null" else 4)
    assert record.weights == {"model.safetensors": file_sha256(config.run.model / "model.safetensors")}


def test_an_exported_encoder_with_a_changed_bit_is_refused(workspace: Path) -> None:
    config = small_run(workspace, "name=changed")
    train_steps(config, (3,))
    export(config.run)
    weights = config.run.model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    weights.write_bytes(content)
    with pytest.raises(ModelError) as error:
        check_files(config.run.model)
    assert error.value.code == "MODEL_WEIGHTS"
    assert str(weights) in str(error.value)


def test_the_best_of_adapted_and_averaged_weights_is_judged_exported_and_told(workspace: Path) -> None:
    small_store(workspace / "dev", num_items=20)
    config = small_run(
        workspace,
        "name=best",
        f"validation.store={workspace / 'dev'}",
        "model.lora.rank=4",
        "optimiser.ema=0.9",
    )
    train_steps(config, (10, 20))
    record = ValidationRecord(config.run.validation)
    rows = [validate(config.absolute().model_dump(mode="json"), step) for step in (10, 20)]
    assert rows[0]["pool_loss"] != rows[1]["pool_loss"]
    record.add({**rows[0], "AP": 0.75})
    record.add({**rows[1], "AP": 0.5})

    assert export(config.run) == 10
    assert ExportRecord.load(config.run) == ExportRecord(10, True, True, 4, "AP", 0.75)
    write_card(config.run)
    card = (config.run.model / "README.md").read_text(encoding="utf-8")
    assert (
        "- weights: the best checkpoint, after 10 steps, averaged over the steps; adapters of rank 4 (LoRA) were "
        "trained and are merged; AP on the dev store 0.750\n" in card
    )

    last = small_run(workspace, "name=best", "validation.export=last", *overrides(config))
    last.run.config.write_text(last.to_yaml(), encoding="utf-8")
    assert export(last.run) == 20
    assert ExportRecord.load(last.run) == ExportRecord(20, False, True, 4, "AP", 0.5)
    write_card(last.run)
    assert "- weights: the last checkpoint, after 20 steps" in (last.run.model / "README.md").read_text()


def overrides(config: TrainConfig) -> list[str]:
    return [f"validation.store={config.validation.store}", "model.lora.rank=4", "optimiser.ema=0.9"]


@pytest.mark.parametrize("name", ["nice", "# <img src=x> | `a` [b](c)"])
def test_the_card_shows_names_and_prompts_as_they_are_and_no_secret(
    workspace: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, prompts, base and addresses of servers are foreign text."""
    manifest = Store(workspace / "store").manifest
    monkeypatch.setattr(model_card, "read_manifest", lambda _: manifest)  # It has no such bucket to look into.
    prompt = "```\n</code><script>`x`: "
    config = small_run(workspace, f"name={json.dumps(name)}", f"model.question_prompt={json.dumps(prompt)}")
    train_steps(config, (1,))
    export(config.run)
    secret = config.model_copy(
        update={
            "store": "s3://AKIAKEY:hidden1@bucket/store?secret_key=hidden2&region=eu",
            "trackers": TrackersConfig(use=(), mlflow_uri="https://user:hidden3@tracker.example/api?token=hidden4"),
        }
    )
    config.run.config.write_text(secret.to_yaml(), encoding="utf-8")
    write_card(config.run)
    card = (config.run.model / "README.md").read_text(encoding="utf-8")
    for text in (card, config.run.config.read_text(encoding="utf-8")):
        assert "hidden" not in text
        assert "AKIAKEY" not in text
        assert "s3://bucket/store?region=eu" in text
        assert "https://tracker.example/api\n" in text
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "sentence-transformers"
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inlines = [token for token in tokens if token.type == "inline"]
    spans = [child.content for token in inlines for child in token.children or () if child.type == "code_inline"]
    assert prompt.replace("\n", "\\n") in spans
    assert inlines[0].children is not None
    assert "".join(child.content for child in inlines[0].children) == name
    assert not [child for token in inlines for child in token.children or () if "html" in child.type]
    (settings,) = [token.content for token in tokens if token.type == "fence" and token.info == "yaml"]
    assert yaml.safe_load(settings)["model"]["question_prompt"] == prompt


def test_the_card_names_the_prompts_that_the_model_brought(workspace: Path, tmp_path: Path) -> None:
    folder = save_scratch_encoder(tmp_path / "model", max_question_length=16, max_passage_length=24)
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": "Ask ", "passage": "Read "})
    config = small_run(workspace, "name=brought", f"model.name={folder}", "model.max_passage_length=16")
    train_steps(config, (1,))
    export(config.run)
    write_card(config.run)
    assert "prompt ` Ask  ` and passages with ` Read  `" in (config.run.model / "README.md").read_text()
    from sentence_transformers import SentenceTransformer

    assert SentenceTransformer(str(config.run.model), device="cpu").prompts == {"query": "Ask ", "document": "Read "}
