"""Tokens: the ids that SentenceTransformer would make."""

from __future__ import annotations

import numpy as np

from hbt_ray.data.tokens import tokenise
from hbt_ray.train.model import ModelConfig, build, tokenising

TEXTS = ["short", "a somewhat longer text, with punctuation; and more", "نص بالعربية", "", "日本語の文", "x" * 300]


def test_ids_equal_those_of_the_library() -> None:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=200, max_question_length=9, max_passage_length=14)
    encoder = build(config, TEXTS * 3)
    how = tokenising(encoder, config)
    for task, prompt, length in (("query", "query: ", 9), ("document", "passage: ", 14)):
        tokens = tokenise(how.tokenizer_json, prompt, TEXTS, length)
        theirs = encoder.preprocess(TEXTS, prompt=prompt, task=task)
        mask = np.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]
        assert np.array_equal(mask, theirs["attention_mask"].numpy().astype(bool))
        assert np.array_equal(tokens.ids[mask], theirs["input_ids"].numpy()[mask])


def test_no_texts_give_no_rows() -> None:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=200)
    how = tokenising(build(config, TEXTS), config)
    assert tokenise(how.tokenizer_json, "", [], 8).ids.shape == (0, 0)
