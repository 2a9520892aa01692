"""Training's vectors are those of the exported encoder, to 1e-6, or the encoder is refused with the reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hbt_ray.data.stream.tokenise import tokenise
from hbt_ray.errors import ModelError
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.model.loading import load_encoder
from hbt_ray.model.microbatch import encoder_features
from tests.model.model_folders import TEXTS, config_for, edit_json, save_scratch_encoder, save_transformer

MIXED = ["Frage 3", "QUESTION 1 2 3 4 5 6 7 8 9 10 11 12", " سؤال\n", "Ünïcödé", "x"]
POOLINGS = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["mean", "max"]]


def difference(folder: Path, config: ModelConfig, out: Path) -> float:
    """Largest component of training's vectors minus those of the library with what was built from `folder`."""
    from sentence_transformers import SentenceTransformer

    build_encoder(config).save_pretrained(str(out))
    library, encoder = SentenceTransformer(str(out), device="cpu"), load_encoder(out).eval()
    how = tokenising_config(encoder, config)
    largest = 0.0
    for run, prompt, length in (
        (library.encode_query, how.question_prompt, 8),
        (library.encode_document, how.passage_prompt, 12),
    ):
        tokens = tokenise(how.tokenizer_json, prompt, MIXED, length)
        with torch.no_grad():
            ours = encoder(encoder_features(tokens, encoder.tokenizer.pad_token_id, torch.device("cpu")))[
                "sentence_embedding"
            ]
        largest = max(largest, float(np.abs(ours.numpy() - run(MIXED)).max()))
    return largest


def sentence(folder: Path, *modules: Any, **pooling: Any) -> Path:
    """A SentenceTransformer with this pooling and what follows it, made by the library."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(save_transformer(folder / "transformer")))
    SentenceTransformer(
        modules=[transformer, Pooling(32, **pooling), *modules],
        device="cpu",
        prompts={"query": "Question: ", "document": "Passage: "},
    ).save_pretrained(str(folder / "model"))
    return folder / "model"


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What hbt_ray said."""
    return [record for record in caplog.records if record.name.startswith("hbt_ray")]


def no_change(folder: Path) -> None:
    pass


def tokenizer(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer_config.json", **changes)


def library(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "sentence_bert_config.json", **changes)


def left_special(folder: Path) -> None:
    """A tokenizer that adds nothing at the ends."""
    read = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    read["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(read), encoding="utf-8")


@pytest.mark.parametrize("mode", POOLINGS, ids=str)
def test_every_pooling_is_the_librarys(mode: Any, tmp_path: Path) -> None:
    folder = sentence(tmp_path, pooling_mode=mode)
    assert difference(folder, config_for(folder), tmp_path / "out") < 1e-6


def test_modules_behind_the_pooling_are_trained_as_they_are_used(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize

    folder = sentence(tmp_path, Dropout(0.1), Dense(32, 16), LayerNorm(16), Normalize(), Dense(16, 8))
    assert difference(folder, config_for(folder), tmp_path / "out") < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        no_change,
        left_special,
        library(do_lower_case=True),
        library(max_seq_length=5),
        library(query_length=3, document_length=4),
        library(processing_kwargs={"text": {"padding": "max_length"}}),
        tokenizer(do_lower_case=True),
        tokenizer(model_max_length=3),
        tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
    ],
)
def test_settings_of_the_library_reach_training(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = save_scratch_encoder(tmp_path / "model")
    change(folder)
    assert difference(folder, config_for(folder), tmp_path / "out") < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        tokenizer(padding_side="left"),
        tokenizer(truncation_side="left"),
        library(processing_kwargs={"text": {"add_special_tokens": False}}),
        library(query_expansion={"strategy": "fixed", "length": 8}),
        lambda folder: edit_json(folder / "1_Pooling" / "config.json", include_prompt=False),
    ],
)
def test_what_training_would_do_in_another_way_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = save_scratch_encoder(tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError) as caught:
        build_encoder(config_for(folder))
    assert caught.value.code == "MODEL_VECTORS"


def test_without_prompts_their_pooling_does_not_matter(tmp_path: Path) -> None:
    folder = sentence(tmp_path, include_prompt=False)
    assert difference(folder, config_for(folder, question_prompt="", passage_prompt=""), tmp_path / "out") < 1e-6


def test_padding_on_the_left_is_fine_where_positions_follow_the_mask(tmp_path: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder = save_transformer(tmp_path / "model")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = XLMRobertaConfig(vocab_size=rows, max_position_embeddings=14, pad_token_id=1, **shape)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", padding_side="left")
    assert difference(folder, config_for(folder), tmp_path / "out") < 1e-6


def test_a_models_own_prompts_are_the_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = sentence(tmp_path)
    with caplog.at_level(logging.WARNING, logger="hbt_ray"):
        assert build_encoder(config_for(folder)).prompts == {"query": "Question: ", "document": "Passage: "}
        assert not ours(caplog)
        changed = build_encoder(config_for(folder, question_prompt="ask: "))
    assert changed.prompts == {"query": "ask: ", "document": "Passage: "}
    assert [record.args for record in ours(caplog)] == [("question_prompt", "ask: ", "Question: ")]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"query": "Q ", "passage": "P "}, ("Q ", "P ")),
        ({"query": "Q ", "corpus": "C "}, ("Q ", "C ")),
        ({"query": "Q ", "passage": "P ", "document": "D "}, ("Q ", "D ")),
        ({"query": "Q "}, ("Q ", "")),
        ({"query": "", "document": ""}, ("", "")),
        ({}, ("query: ", "passage: ")),
    ],
)
def test_prompts_are_found_under_their_usual_names(own: Any, expected: tuple[str, str], tmp_path: Path) -> None:
    folder = save_scratch_encoder(tmp_path / "model")
    edit_json(folder / "config_sentence_transformers.json", prompts=own)
    config = config_for(folder)
    encoder = build_encoder(config)
    assert (encoder.prompts["query"], encoder.prompts["document"]) == expected
    how = tokenising_config(encoder, config)
    assert (how.question_prompt, how.passage_prompt) == expected
    if own:  # What is judged without training reads texts in the same way.
        untrained = load_encoder(folder)
        assert np.abs(untrained.encode_document(TEXTS[:4]) - encoder.encode_document(TEXTS[:4])).max() < 1e-6


def test_the_default_is_said_where_a_sentence_transformer_has_no_prompts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_scratch_encoder(tmp_path / "model")
    (folder / "config_sentence_transformers.json").unlink()
    with caplog.at_level(logging.WARNING, logger="hbt_ray"):
        build_encoder(config_for(folder))
        build_encoder(config_for(folder, question_prompt="", passage_prompt="a "))
    assert [record.args[2] for record in ours(caplog) if record.args] == ["query: ", "passage: "]


def test_another_similarity_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_scratch_encoder(tmp_path / "model")
    edit_json(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    with caplog.at_level(logging.WARNING, logger="hbt_ray"):
        assert build_encoder(config_for(folder)).similarity_fn_name == "cosine"
    assert [record.args for record in ours(caplog)] == [(str(folder), "dot")]
