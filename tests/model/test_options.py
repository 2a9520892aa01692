"""Options of training: none changes what is learned, but for float error, or the folders that are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import LoraConfig, ModelConfig
from hbt_ray.model.trainable_encoder import load_for_checkpoint, load_for_training
from hbt_ray.train.checkpoint.format import checkpointed_tensors
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder
from tests.model.model_folders import TEXTS, config_for, save_scratch_encoder, scratch_config
from tests.refused import refused
from tests.train.batches import batch
from tests.train.small_train_steps import trained_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scratch_encoder(tmp_path_factory.mktemp("options") / "base")


def gradients(base: Path, config: ModelConfig, tokens: int | None = None) -> list[Tensor]:
    """Vectors and gradients of one batch, with dropout."""
    encoder = load_for_training(base, config).train()
    tower = GradCacheEncoder(encoder, padding_id=1, limits=EncodeLimits(4, tokens), world_size=1, device=CPU)
    texts = batch(0).texts["passages"]
    encoding = tower.encode(texts, 3)
    encoding.backward(torch.randn(encoding.vectors.shape, generator=torch.Generator().manual_seed(5)))
    return [encoding.vectors, *(value.grad for value in encoder.parameters() if value.grad is not None)]


def furthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))


def test_frozen_embeddings_stay_and_are_in_no_checkpoint(base: Path, tmp_path: Path) -> None:
    config = scratch_config(freeze_embeddings=True, dropout=0)
    encoder = load_for_training(base, config)
    names = {name for name, value in encoder.named_parameters() if not value.requires_grad}
    assert [name.endswith("word_embeddings.weight") for name in names] == [True]
    assert not names & checkpointed_tensors(load_for_checkpoint(base, config)).keys()
    assert checkpointed_tensors(load_for_checkpoint(base, config)).keys() == checkpointed_tensors(encoder).keys()
    train_step = trained_step(base, config, steps=3)
    after, before = dict(train_step.encoder.named_parameters()), dict(encoder.named_parameters())
    assert {name for name, value in after.items() if torch.equal(value, before[name])} == names
    assert sum(len(group["params"]) for group in train_step.optimiser.param_groups) >= len(after) - 1


def test_frozen_embeddings_take_no_part_in_other_gradients(base: Path) -> None:
    model = load_for_training(base, scratch_config())
    names = [name for name, _ in model.named_parameters()]
    (frozen,) = (number for number, name in enumerate(names) if name.endswith("word_embeddings.weight"))
    vectors, *all_of_them = gradients(base, scratch_config(dropout=0))
    theirs = [vectors, *(value for number, value in enumerate(all_of_them) if number != frozen)]
    for tokens in (None, 20):
        assert furthest(gradients(base, scratch_config(dropout=0, freeze_embeddings=True), tokens), theirs) < 1e-5


@pytest.mark.parametrize("tokens", [None, 20])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.2)])
def test_checkpointed_layers_give_the_same_gradients(base: Path, tokens: int | None, lora: LoraConfig | None) -> None:
    plain = gradients(base, scratch_config(lora=lora))
    again = gradients(base, scratch_config(lora=lora, gradient_checkpointing=True), tokens)
    assert furthest(again, plain) == 0 if tokens is None else furthest(again, plain) < 1e-5
    assert furthest(gradients(base, scratch_config(lora=lora, dropout=0)), plain) > 1e-3  # There was dropout.


def test_checkpointed_layers_keep_less(base: Path) -> None:
    kept: list[int] = []

    def saved_bytes(config: ModelConfig) -> int:
        kept.clear()

        def pack(tensor: Tensor) -> Tensor:
            kept.append(tensor.numel() * tensor.element_size())
            return tensor

        encoder = load_for_training(base, config).train()
        ids = torch.full((16, 8), 7)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return sum(kept)

    assert saved_bytes(scratch_config(gradient_checkpointing=True)) < saved_bytes(scratch_config()) / 2


@pytest.mark.integration
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_gradients_and_the_names_of_weights(base: Path, checkpointing: bool) -> None:
    config = scratch_config(compile=True, gradient_checkpointing=checkpointing)
    plain, compiled = gradients(base, scratch_config()), gradients(base, config, 20)
    assert 0 < furthest(compiled, plain) < 1e-4  # Another order of sums: it was compiled.
    assert load_for_training(base, config).state_dict().keys() == load_for_checkpoint(base, config).state_dict().keys()


def test_without_a_compiler_the_message_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with refused("MODEL_OPTION", "model.compile needs a C++ compiler"):
        load_for_training(base, scratch_config(compile=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_the_one_that_was_asked_for(base: Path, attention: str) -> None:
    encoder = load_for_training(base, scratch_config(attention=attention))
    assert encoder[0].model.config._attn_implementation == attention
    assert abs(encoder.encode(TEXTS) - load_for_training(base, scratch_config()).encode(TEXTS)).max() < 1e-6


def test_flash_attention_is_refused_where_it_cannot_run(base: Path) -> None:
    if not torch.cuda.is_available():
        with refused("MODEL_OPTION", "model.attention=flash_attention_2"):
            load_for_training(base, scratch_config(attention="flash_attention_2"))
    values: dict[str, Any] = {"name": "run", "store": "store", "model": {"attention": "flash_attention_2"}}
    with pytest.raises(ValidationError, match=r"model\.attention=flash_attention_2"):
        TrainConfig.model_validate(values)
    values["workers"] = {"gpu": True}
    TrainConfig.model_validate(values)
    with pytest.raises(ValidationError, match=r"model\.attention=flash_attention_2"):
        TrainConfig.model_validate({**values, "optimiser": {"precision": "fp32"}})


def test_flash_attention_without_its_package_is_refused_by_the_driver(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("MISSING_PACKAGE", "pip install flash-attn"):
        build_encoder(config_for(base, attention="flash_attention_2"))


def test_dropout_is_that_of_training_alone(base: Path) -> None:
    before = (base / "config.json").read_text()
    encoder = load_for_training(base, scratch_config(dropout=0.3))
    assert {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}
    assert load_for_checkpoint(base, scratch_config(dropout=0.3))[0].model.config.hidden_dropout_prob == 0.1
    assert (base / "config.json").read_text() == before


def test_options_are_not_part_of_the_base(base: Path, tmp_path: Path) -> None:
    options = {"attention": "eager", "gradient_checkpointing": True, "compile": True, "dropout": 0.2}
    folder = save_scratch_encoder(tmp_path / "base", **options, lora=LoraConfig())
    names = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (base / name).read_bytes() for name in names)


def test_what_an_encoder_does_not_offer_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    monkeypatch.setattr(BertModel, "_supports_sdpa", False)
    with refused("MODEL_OPTION", "model.attention=sdpa", "write auto"):
        build_encoder(config_for(base, attention="sdpa"))
    monkeypatch.setattr(BertModel, "supports_gradient_checkpointing", False)
    with refused("MODEL_OPTION", "model.gradient_checkpointing"):
        build_encoder(config_for(base, gradient_checkpointing=True))


def test_a_run_may_go_on_with_other_options_but_not_with_another_encoder() -> None:
    assert (
        scratch_config(compile=True, attention="eager", gradient_checkpointing=True).identity
        == scratch_config().identity
    )
    for other in ({"lora": LoraConfig()}, {"dropout": 0.2}, {"seed": 1}, {"layers": 3}):
        assert scratch_config(**other).identity != scratch_config().identity
    assert json.dumps(scratch_config(lora=LoraConfig()).identity)
