"""Folders that hold no encoder to train: each is refused before anything is trained, and none of their code is run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.model.build import build_encoder
from hbt_ray.model.inspection import num_positions
from hbt_ray.train.config import TrainConfig
from tests.model.model_folders import (
    config_for,
    copy_folder,
    edit_json,
    save_scratch_encoder,
    save_transformer,
    scratch_config,
)
from tests.refused import refused


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two layers; not to be changed."""
    return save_scratch_encoder(tmp_path_factory.mktemp("sentence") / "model")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformer(tmp_path_factory.mktemp("plain") / "model")


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def test_heads_of_other_tasks_are_rightly_left_over(transformer: Path, tmp_path: Path) -> None:
    folder = copy_folder(transformer, tmp_path / "language-model")
    weights(lambda tensors: tensors.update({"cls.predictions.bias": torch.zeros(200)}))(folder)
    assert build_encoder(config_for(folder)).encode("Frage").shape == (32,)


class Marks:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_a_folder_is_run(sentence: Path, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Model: ...\nclass Config: ...\n"

    pickled = copy_folder(sentence, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({"weight": Marks(mark)}, pickled / "pytorch_model.bin")

    module = copy_folder(sentence, tmp_path / "module")
    (module / "own.py").write_text(code)
    modules = json.loads((module / "modules.json").read_text())
    modules[1]["type"] = "own.Model"
    (module / "modules.json").write_text(json.dumps(modules))

    remote = copy_folder(sentence, tmp_path / "remote")
    (remote / "own.py").write_text(code)
    edit_json(remote / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    edit_json(remote / "sentence_bert_config.json", model_args={"trust_remote_code": True})

    for folder in (pickled, module, remote):
        with pytest.raises(ModelError):
            build_encoder(config_for(folder))
        assert not mark.exists(), folder
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert mark.exists()  # The trap is one.


def test_lengths_beyond_the_positions_are_refused(sentence: Path) -> None:
    with pytest.raises(ModelError) as caught:
        build_encoder(config_for(sentence, max_passage_length=13))
    assert caught.value.code == "MODEL_LENGTH"


@pytest.mark.parametrize(("kind", "usable"), [("XLMRoberta", 512), ("Bert", 514), ("ModernBert", 514)])
def test_of_the_positions_of_roberta_two_are_not_for_tokens(kind: str, usable: int) -> None:
    import transformers

    sizes = getattr(transformers, f"{kind}Config")(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=514,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        cls_token_id=0,
        sep_token_id=2,
    )
    model = getattr(transformers, f"{kind}Model")(sizes).eval()
    assert num_positions(model) == usable
    ids = torch.full((1, usable), 5)
    assert model(ids).last_hidden_state.isfinite().all()
    if kind == "XLMRoberta":
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, usable + 1), 5))


def test_pooling_that_has_no_effect_is_told(
    sentence: Path, transformer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hbt_ray"):
        build_encoder(config_for(sentence))
        build_encoder(config_for(sentence, pooling="mean"))
        build_encoder(config_for(transformer, pooling="cls"))
        assert not caplog.records
        assert build_encoder(config_for(sentence, pooling="cls"))[1].pooling_mode == "mean"
    assert [record.getMessage() for record in caplog.records] == [
        f"model.pooling=cls has no effect: {sentence} is a SentenceTransformer with pooling of its own (mean), "
        "which it keeps"
    ]


def test_an_unknown_pooling_is_refused_in_words() -> None:
    values = {"name": "run", "store": "store", "model": {"pooling": "median"}}
    with pytest.raises(ConfigError, match=r"model\.pooling: Input should be 'mean' or 'cls' \(got 'median'\)"):
        TrainConfig.make(values, "train.yaml")


def test_sizes_of_a_scratch_encoder_that_contradict_one_another_are_refused() -> None:
    with refused("MODEL_SIZES", "model.width", "model.heads"):
        build_encoder(scratch_config(width=30, heads=4), ["a text"])
