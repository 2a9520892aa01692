"""Tokens: the ids that SentenceTransformer would make."""

from __future__ import annotations

import numpy as np

from hbt_ray.data.stream.tokenise import Tokens, TokenSections, tokenise
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig

TEXTS = ["short", "a somewhat longer text, with punctuation; and more", "نص بالعربية", "", "日本語の文", "x" * 300]


def test_ids_equal_those_of_the_library() -> None:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=200, max_question_length=9, max_passage_length=14)
    encoder = build_encoder(config, TEXTS * 3)
    tokenising = tokenising_config(encoder, config)
    for task, prompt, length in (("query", "query: ", 9), ("document", "passage: ", 14)):
        tokens = tokenise(tokenising.tokenizer_json, prompt, TEXTS, length)
        theirs = encoder.preprocess(TEXTS, prompt=prompt, task=task)
        assert np.array_equal(tokens.lengths, theirs["attention_mask"].sum(axis=1))
        assert np.array_equal(tokens.padded(encoder.tokenizer.pad_token_id), theirs["input_ids"].numpy())


def test_some_of_the_texts_in_any_order() -> None:
    tokens = Tokens.from_lengths(np.arange(9, dtype=np.int32), np.array([2, 0, 4, 3], np.int32))
    some = tokens[np.array([3, 1, 0, 3])]
    assert some.lengths.tolist() == [3, 0, 2, 3]
    assert some.flat_ids().tolist() == [6, 7, 8, 0, 1, 6, 7, 8]
    assert some.padded(-1).tolist() == [[6, 7, 8], [-1, -1, -1], [0, 1, -1], [6, 7, 8]]


def test_sections_are_selected_without_copying_ids() -> None:
    ids = np.arange(8, dtype=np.int32)
    parts = [
        Tokens.from_lengths(ids[:3], np.array([2, 1], np.int32)),
        Tokens.from_lengths(ids[3:], np.array([5, 0], np.int32)),
    ]
    texts = TokenSections.concatenate({"questions": parts[0], "passages": parts[1][np.array([1, 0])]})
    assert texts.bounds == {"questions": slice(0, 2), "passages": slice(2, 4)}
    assert texts["passages"].padded(-1).tolist() == [[-1] * 5, [3, 4, 5, 6, 7]]
    assert texts.present.tolist() == [True, True, False, True]
    swapped = texts.select(["passages", "translations", "questions"])
    assert swapped.sizes == {"passages": 2, "questions": 2}
    assert swapped.tokens.ids is texts.tokens.ids
    assert swapped.tokens.flat_ids().tolist() == [3, 4, 5, 6, 7, 0, 1, 2]
    assert "translations" not in swapped
    assert len(texts.select([]).tokens) == 0


def test_texts_are_scattered_among_missing_ones() -> None:
    tokens = Tokens.from_lengths(np.arange(3, dtype=np.int32), np.array([1, 2], np.int32))
    scattered = tokens.scattered(np.array([1, 3]), 5)
    assert scattered.lengths.tolist() == [0, 1, 0, 2, 0]
    assert scattered.padded(-1).tolist() == [[-1, -1], [0, -1], [-1, -1], [1, 2], [-1, -1]]


def test_no_texts_give_no_rows() -> None:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=200)
    tokenising = tokenising_config(build_encoder(config, TEXTS), config)
    assert tokenise(tokenising.tokenizer_json, "", [], 8).padded(0).shape == (0, 0)
