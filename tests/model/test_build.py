"""Encoders: built the same every time, loaded from plain and SentenceTransformer folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hbt_ray.data.stream.tokenise import tokenise
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.model.loading import load_encoder
from hbt_ray.model.microbatch import encoder_features
from tests.model.model_folders import TEXTS, config_for, scratch_config


def test_the_same_configuration_gives_the_same_encoder(tmp_path: Path) -> None:
    torch.manual_seed(7)
    build_encoder(scratch_config(), TEXTS).save_pretrained(str(tmp_path / "a"))
    torch.manual_seed(8)
    build_encoder(scratch_config(), TEXTS).save_pretrained(str(tmp_path / "b"))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "a" / "tokenizer.json").read_text() == (tmp_path / "b" / "tokenizer.json").read_text()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_trainer_and_library_give_the_same_vectors(tmp_path: Path, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer

    config = scratch_config(pooling=pooling)
    encoder = build_encoder(config, TEXTS).eval()
    encoder.save_pretrained(str(tmp_path / "model"))
    library = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    how = tokenising_config(encoder, config)
    texts = ["Frage 3", "question 1 2 3 4 5 6 7 8 9 10 11 12", "سؤال"]
    for run, prompt, length in ((library.encode_query, "query: ", 8), (library.encode_document, "passage: ", 12)):
        tokens = tokenise(how.tokenizer_json, prompt, texts, length)
        with torch.no_grad():
            ours = encoder(encoder_features(tokens, encoder.tokenizer.pad_token_id, torch.device("cpu")))[
                "sentence_embedding"
            ]
        assert np.abs(ours.numpy() - run(texts)).max() < 1e-6
        assert np.abs(np.linalg.norm(ours.numpy(), axis=1) - 1).max() < 1e-6


def test_a_saved_folder_is_an_encoder_to_start_from(tmp_path: Path) -> None:
    build_encoder(scratch_config(), TEXTS).save_pretrained(str(tmp_path / "model"))
    again = build_encoder(
        ModelConfig(name=str(tmp_path / "model"), max_question_length=8, max_passage_length=10, question_prompt="q: ")
    )
    assert again.prompts == {"query": "q: ", "document": "passage: "}
    assert again.max_seq_length == 10
    assert np.array_equal(again.encode("Frage 3"), load_encoder(tmp_path / "model").encode("Frage 3"))


def test_vectors_have_length_one_though_a_folder_leaves_it_out(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    whole = build_encoder(scratch_config(), TEXTS)
    SentenceTransformer(modules=list(whole)[:2], device="cpu").save_pretrained(str(tmp_path / "model"))
    again = build_encoder(config_for(tmp_path / "model", question_prompt="query: ", passage_prompt="passage: "))
    assert np.abs(np.linalg.norm(again.encode(TEXTS), axis=1) - 1).max() < 1e-6
    assert np.allclose(again.encode_query(TEXTS), whole.encode_query(TEXTS), atol=1e-6)


def test_weights_that_were_saved_in_half_are_trained_in_float32(tmp_path: Path) -> None:
    build_encoder(scratch_config(), TEXTS).half().save_pretrained(str(tmp_path / "model"))
    assert {value.dtype for value in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float16}
    assert {parameter.dtype for parameter in build_encoder(config_for(tmp_path / "model")).parameters()} == {
        torch.float32
    }


def test_a_plain_transformer_folder_gets_pooling_and_normalisation(tmp_path: Path) -> None:
    encoder = build_encoder(scratch_config(), TEXTS)
    encoder[0].model.save_pretrained(tmp_path / "plain")
    encoder.tokenizer.save_pretrained(tmp_path / "plain")
    config = ModelConfig(name=str(tmp_path / "plain"), max_question_length=8, max_passage_length=12)
    assert np.allclose(build_encoder(config).encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-6)


def test_no_parameter_is_without_a_gradient(tmp_path: Path) -> None:
    build_encoder(scratch_config(), TEXTS).save_pretrained(str(tmp_path / "model"))
    encoder = load_encoder(tmp_path / "model").train()
    ids = torch.tensor([[1, 9, 10, 2]])
    encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"].sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
