"""LoRA: only adapters learn, and what is exported is an ordinary encoder with the trainer's vectors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hbt_ray.errors import ModelError
from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import LoraConfig, ModelConfig
from hbt_ray.model.loading import load_encoder
from hbt_ray.model.trainable_encoder import (
    adapter_targets,
    add_adapters,
    load_for_checkpoint,
    load_for_training,
    merge_adapters,
)
from hbt_ray.train.checkpoint.format import checkpointed_tensors
from tests.model.model_folders import TEXTS, config_for, save_scratch_encoder, scratch_config
from tests.refused import refused
from tests.train.processes import on_ranks
from tests.train.small_train_steps import small_train_step, trained_step


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scratch_encoder(tmp_path_factory.mktemp("lora") / "base")


def adapted(**settings: Any) -> ModelConfig:
    return scratch_config(lora=LoraConfig(**{"rank": 4, "alpha": 8.0, **settings}), dropout=0)


def trained(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in encoder.named_parameters() if value.requires_grad}


def test_training_starts_at_the_encoder_and_moves_adapters_only(base: Path) -> None:
    start, plain = small_train_step(base, adapted()), load_encoder(base)
    assert (start.encoder.eval().encode(TEXTS) == plain.encode(TEXTS)).all()
    train_step = trained_step(base, adapted())
    names = trained(train_step.encoder).keys()
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert checkpointed_tensors(train_step.encoder).keys() == names  # A checkpoint holds nothing else.
    own = dict(plain.named_parameters())
    for name, value in train_step.encoder.named_parameters():
        if name not in names:
            assert torch.equal(value, own[name.replace("base_model.model.", "").replace("base_layer.", "")]), name
    assert abs(train_step.encoder.eval().encode(TEXTS) - plain.encode(TEXTS)).max() > 1e-3


def test_the_export_is_an_ordinary_encoder_with_the_trainers_vectors(base: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    train_step = trained_step(base, adapted(targets="all-linear")).encoder.eval()
    again = load_for_checkpoint(base, adapted(targets="all-linear"))
    for name, value in checkpointed_tensors(again).items():
        value.data.copy_(checkpointed_tensors(train_step)[name])
    merge_adapters(again).save_pretrained(str(tmp_path / "model"), create_model_card=False)
    assert not list((tmp_path / "model").rglob("adapter*"))
    library = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert library.state_dict().keys() >= load_encoder(base).state_dict().keys()
    assert not any("lora" in name for name in library.state_dict())
    assert abs(library.encode(TEXTS) - train_step.encode(TEXTS)).max() < 1e-6
    assert abs(library.encode(TEXTS) - load_encoder(base).encode(TEXTS)).max() > 1e-3


def test_first_adapters_are_a_function_of_the_seed(base: Path) -> None:
    torch.manual_seed(1)
    one = trained(load_for_training(base, adapted()))
    torch.manual_seed(2)
    encoder = load_encoder(base)
    before = torch.get_rng_state()
    two = trained(add_adapters(encoder, LoraConfig(rank=4, alpha=8), seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    other = trained(load_for_training(base, scratch_config(seed=1, lora=LoraConfig(rank=4))))
    assert all(torch.equal(one[name], two[name]) for name in one)
    name = next(name for name in one if ".lora_A." in name)
    assert not torch.equal(one[name], other[name])


def on_rank(rank: int, base: Path) -> dict[str, Tensor]:
    config = adapted().model_copy(update={"gradient_checkpointing": True})
    return trained(trained_step(base, config, rank, 2, steps=3).encoder)


@pytest.mark.integration
def test_two_ranks_learn_the_adapters_that_one_learns_with_checkpointed_layers_too(base: Path) -> None:
    start = trained(load_for_training(base, adapted()))
    alone = trained(trained_step(base, adapted(), steps=3).encoder)
    for rank in on_ranks(2, on_rank, base):
        for name, value in alone.items():
            # By norms: where a gradient is below AdamW's eps, as those of a few numbers are, rounding decides its step.
            assert (rank[name] - value).norm() < 1e-3 * (value - start[name]).norm(), name


def test_targets_are_ends_of_names(base: Path) -> None:
    model = load_encoder(base)[0].model
    usual = adapter_targets(model, LoraConfig())
    assert sorted(usual) == [
        f"encoder.layer.{layer}.attention.self.{name}" for layer in range(2) for name in ("query", "value")
    ]
    dense = adapter_targets(model, LoraConfig(targets=("output.dense",)))
    assert len(dense) == 4  # Of attention and of what follows it, in two layers.
    assert len(adapter_targets(model, LoraConfig(targets="all-linear"))) == 12


@pytest.mark.parametrize("names", [("q_proj",), ("query", "q_proj"), ()])
def test_targets_that_are_not_there_are_refused_with_those_that_are(base: Path, names: tuple[str, ...]) -> None:
    message = "'q_proj'" if names else "an empty list"
    with pytest.raises(ModelError, match=message) as caught:
        build_encoder(config_for(base, lora=LoraConfig(targets=names)))
    assert "encoder.layer.*.attention.self.query" in str(caught.value)
    assert "layer.1" not in str(caught.value)


def test_an_architecture_without_usual_targets_is_told_what_it_has(base: Path) -> None:
    model = load_encoder(base)[0].model
    model.config.model_type = "modernbert"
    with refused("LORA_TARGETS", "'modernbert'", "write targets"):
        adapter_targets(model, LoraConfig())


def test_without_peft_the_message_says_how_to_get_it(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with refused("MISSING_PACKAGE", "pip install 'hbt-ray[lora]'"):
        build_encoder(config_for(base, lora=LoraConfig()))
