"""Broken and hostile model folders: every reader of models refuses each in one line, and runs none of their code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hbt_ray.errors import ModelError
from hbt_ray.model.build import build_encoder
from hbt_ray.retrieval.encoder import EncoderActor, EncoderConfig
from tests.model.model_folders import config_for, copy_folder, edit_json, save_scratch_encoder, save_transformer

Damage = Callable[[Path], object]
KEY = "encoder.layer.1.output.dense.bias"


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformer of two layers, not to be changed."""
    return save_transformer(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a SentenceTransformer."""
    return save_scratch_encoder(tmp_path_factory.mktemp("sentence") / "model")


def without(*names: str) -> Damage:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def changed(name: str, **changes: Any) -> Damage:
    return lambda folder: edit_json(folder / name, **changes)


def written(name: str, content: bytes | str) -> Damage:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def a_folder(name: str) -> Damage:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return replace


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def rewrite(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(*missing: str, **listed: str) -> Damage:
    def split(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        names = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(held)}
        for file in sorted(set(names.values()) - {*missing}):
            save_file({name: held[name] for name in held if names[name] == file}, folder / file, {"format": "pt"})
        index = {"metadata": {"total_size": 0}, "weight_map": {**names, **listed}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "model.safetensors").unlink()

    return split


def module(number: int, **changes: Any) -> Damage:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[number] |= changes
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


def foreign_token(folder: Path) -> None:
    read = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    read["model"]["vocab"]["foreign"] = 9_999
    (folder / "tokenizer.json").write_text(json.dumps(read), encoding="utf-8")


def no_padding(folder: Path) -> None:
    held = json.loads((folder / "tokenizer_config.json").read_text())
    held.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(held))


def another_model(kind: str, **sizes: Any) -> Damage:
    def replace(folder: Path) -> None:
        import transformers

        rows = json.loads((folder / "config.json").read_text())["vocab_size"]
        config = getattr(transformers, f"{kind}Config")(**({"vocab_size": rows} if kind != "ViT" else {}), **sizes)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)

    return replace


def not_a_number(held: dict[str, torch.Tensor]) -> None:
    held[KEY][3] = torch.nan


GPT = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 2}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 16,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}  # fmt: skip
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8,
       "patch_size": 4}  # fmt: skip
UNCUT = {"text": {"truncation": False}}
DEEP = "[" * 100_000

PLAIN: dict[str, tuple[Damage, str]] = {
    "no configuration": (without("config.json"), "MODEL_FILES"),
    "torn configuration": (cut("config.json"), "MODEL_FILES"),
    "empty configuration": (written("config.json", ""), "MODEL_FILES"),
    "a list as configuration": (written("config.json", "[]"), "MODEL_FILES"),
    "bytes as configuration": (written("config.json", b"\xff\xfe\x00{"), "MODEL_FILES"),
    "a deep configuration": (written("config.json", DEEP), "MODEL_FILES"),
    "a folder as configuration": (a_folder("config.json"), "MODEL_FILES"),
    "an unknown architecture": (changed("config.json", model_type="martian"), "MODEL_LOADING"),
    "a text as width": (changed("config.json", hidden_size="wide"), "MODEL_LOADING"),
    "a negative width": (changed("config.json", hidden_size=-32), "MODEL_LOADING"),
    "another width": (changed("config.json", hidden_size=64), "MODEL_LOADING"),
    "a huge width": (changed("config.json", hidden_size=10**9), "MODEL_WEIGHTS"),
    "huge embeddings": (changed("config.json", vocab_size=10**12), "MODEL_WEIGHTS"),
    "endless layers": (changed("config.json", num_hidden_layers=10**9), "MODEL_WEIGHTS"),
    "huge positions": (changed("config.json", max_position_embeddings=10**12), "MODEL_WEIGHTS"),
    "more layers than weights": (changed("config.json", num_hidden_layers=3), "MODEL_WEIGHTS"),
    "fewer layers than weights": (changed("config.json", num_hidden_layers=1), "MODEL_WEIGHTS"),
    "code of its own": (changed("config.json", auto_map={"AutoModel": "own.Model"}), "MODEL_CODE"),
    "code of another": (changed("config.json", auto_map={"AutoModel": "evil/repo--own.Model"}), "MODEL_CODE"),
    "a tokenizer with code": (changed("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T"]}), "MODEL_CODE"),
    "a kernel of the hub": (changed("config.json", attn_implementation="evil/kernel"), "MODEL_CODE"),
    "a processor with code": (written("processor_config.json", '{"auto_map": {"AutoProcessor": "o.P"}}'), "MODEL_CODE"),
    "no weights": (without("model.safetensors"), "MODEL_WEIGHTS"),
    "pickled weights": (pickled, "MODEL_PICKLE"),
    "torn weights": (cut("model.safetensors"), "MODEL_WEIGHTS"),
    "empty weights": (written("model.safetensors", b""), "MODEL_WEIGHTS"),
    "a huge header": (written("model.safetensors", (2**62).to_bytes(8, "little") + b"{}"), "MODEL_WEIGHTS"),
    "a folder as weights": (a_folder("model.safetensors"), "MODEL_WEIGHTS"),
    "a missing weight": (tensors(lambda held: held.pop(KEY)), "MODEL_WEIGHTS"),
    "a missing embedding": (tensors(lambda held: held.pop("embeddings.word_embeddings.weight")), "MODEL_WEIGHTS"),
    "weights of another shape": (tensors(lambda held: held.update({KEY: torch.zeros(7)})), "MODEL_LOADING"),
    "weights that are not finite": (tensors(not_a_number), "MODEL_WEIGHTS"),
    "a missing shard": (sharded("part-1.safetensors"), "MODEL_WEIGHTS"),
    "a shard elsewhere": (sharded(**{KEY: "../../elsewhere.safetensors"}), "MODEL_FILES"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "MODEL_FILES"),
    "torn tokenizer": (cut("tokenizer.json"), "MODEL_LOADING"),
    "a deep tokenizer": (written("tokenizer.json", DEEP), "MODEL_LOADING"),
    "another tokenizer": (foreign_token, "MODEL_TOKENIZER"),
    "no padding token": (no_padding, "MODEL_TOKENIZER"),
    "adapters only": (written("adapter_config.json", '{"base_model_name_or_path": "someone/else"}'), "MODEL_ADAPTERS"),
    "a decoder": (another_model("GPT2", **GPT), "MODEL_KIND"),
    "an encoder and decoder": (another_model("Bart", **BART), "MODEL_KIND"),
    "an image model": (another_model("ViT", **VIT), "MODEL_LOADING"),
}  # fmt: skip
SENTENCE: dict[str, tuple[Damage, str]] = {
    "torn modules": (cut("modules.json"), "MODEL_FILES"),
    "no modules": (written("modules.json", "[]"), "MODEL_KIND"),
    "empty modules": (written("modules.json", "[{}]"), "MODEL_FILES"),
    "modules of numbers": (written("modules.json", "[1, 2]"), "MODEL_FILES"),
    "a module of its own": (module(1, type="own.Model"), "MODEL_CODE"),
    "a function as module": (module(1, type="sentence_transformers.util.os.system"), "MODEL_KIND"),
    "a router": (module(1, type="sentence_transformers.models.Router"), "MODEL_KIND"),
    "no transformer first": (module(0, type="sentence_transformers.models.Pooling"), "MODEL_KIND"),
    "a path out of the folder": (module(1, path="../../1_Pooling"), "MODEL_FILES"),
    "an absolute path": (module(1, path="/etc"), "MODEL_FILES"),
    "a pickle in a module": (written("1_Pooling/pytorch_model.bin", b""), "MODEL_PICKLE"),
    "pooling of another width": (changed("1_Pooling/config.json", embedding_dimension=77), "MODEL_KIND"),
    "an unknown pooling": (changed("1_Pooling/config.json", pooling_mode="median"), "MODEL_LOADING"),
    "a missing module": (without("1_Pooling/config.json"), "MODEL_LOADING"),
    "a tokenizer elsewhere": (changed("sentence_bert_config.json", tokenizer_name_or_path="/etc"), "MODEL_FILES"),
    "weights elsewhere": (changed("sentence_bert_config.json", model_args={"subfolder": "../.."}), "MODEL_FILES"),
    "trust in its code": (changed("sentence_bert_config.json", model_args={"trust_remote_code": True}), "MODEL_CODE"),
    "a generator": (changed("sentence_bert_config.json", transformer_task="text-generation"), "MODEL_KIND"),
    "no truncation": (changed("sentence_bert_config.json", processing_kwargs=UNCUT), "MODEL_LOADING"),
    "lengths beyond positions": (changed("sentence_bert_config.json", query_length=5_000), "MODEL_LENGTH"),
    "prompts of numbers": (changed("config_sentence_transformers.json", prompts={"query": 7}), "MODEL_FILES"),
    "a sparse encoder": (changed("config_sentence_transformers.json", model_type="SparseEncoder"), "MODEL_KIND"),
}  # fmt: skip


def refused(folder: Path) -> list[str]:
    """Codes of the refusals by training and by everything that encodes; each is one line that names the folder."""
    codes = []
    for read in (
        lambda: build_encoder(config_for(folder)),
        lambda: EncoderActor(EncoderConfig(model=str(folder))),
    ):
        with pytest.raises(ModelError) as caught:
            read()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 1_000
        assert str(folder) in message
        codes.append(caught.value.code)
    return codes


@pytest.mark.parametrize("what", PLAIN)
def test_a_plain_folder_with_something_wrong_is_refused(what: str, transformer: Path, tmp_path: Path) -> None:
    damage, code = PLAIN[what]
    folder = copy_folder(transformer, tmp_path / "broken")
    damage(folder)
    assert refused(folder) == [code, code]


@pytest.mark.parametrize("what", SENTENCE)
def test_a_sentence_transformer_with_something_wrong_is_refused(what: str, sentence: Path, tmp_path: Path) -> None:
    damage, code = SENTENCE[what]
    folder = copy_folder(sentence, tmp_path / "broken")
    damage(folder)
    assert refused(folder) == [code, code]


def test_whole_folders_are_read_also_in_parts_and_by_links(transformer: Path, sentence: Path, tmp_path: Path) -> None:
    parts = copy_folder(transformer, tmp_path / "parts")
    sharded()(parts)
    links = tmp_path / "links"  # As the cache of the hub has them.
    links.mkdir()
    for path in transformer.iterdir():
        os.symlink(path, links / path.name)
    for folder in (transformer, sentence, parts, links):
        build_encoder(config_for(folder))
        EncoderActor(EncoderConfig(model=str(folder)))


@pytest.mark.parametrize("what", ["modules.json", "missing", "x" * 5_000, "~", "a/b/c"])
def test_what_is_no_folder_is_refused(what: str, sentence: Path) -> None:
    name = str(sentence / what) if what == "modules.json" else what if "/" in what or what == "~" else f"/{what}"
    for read in (lambda: build_encoder(config_for(Path(name))), lambda: EncoderActor(EncoderConfig(model=name))):
        with pytest.raises(ModelError) as caught:
            read()
        assert caught.value.code == "MODEL_NOT_FOUND"


def test_without_a_network_a_hub_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, code in (("someone/encoder", "MODEL_NOT_FETCHED"), ("some one/encoder", "MODEL_NOT_FOUND")):
        for read, argument in ((build_encoder, config_for(Path(name))), (EncoderActor, EncoderConfig(model=name))):
            with pytest.raises(ModelError) as caught:
                read(argument)
            assert caught.value.code == code
