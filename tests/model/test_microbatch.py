"""Chunks: every row once, the longest first, and little padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.model.microbatch import encoder_features, microbatch_rows, to_device


def side(lengths: list[int]) -> Tokens:
    """The ids of row r are all r + 1."""
    return Tokens.from_lengths(
        np.repeat(np.arange(len(lengths)) + 1, lengths).astype(np.int32), np.array(lengths, np.int32)
    )


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 50), st.integers(0, 500))
def test_every_row_once_and_no_chunk_is_too_large_or_wastes_too_much(
    lengths: list[int], chunk_rows: int, pass_tokens: int
) -> None:
    array = np.array(lengths, np.int32)
    chunks = microbatch_rows(array, chunk_rows, pass_tokens)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(lengths)))
    sorted_lengths = array[np.concatenate(chunks)].tolist()
    assert sorted_lengths == sorted(lengths, reverse=True)
    for chunk in chunks:
        assert 1 <= len(chunk) <= chunk_rows
        assert array[chunk[0]] * len(chunk) - array[chunk].sum() <= pass_tokens


def test_a_chunk_ends_where_padding_would_cost_more_than_a_pass() -> None:
    lengths = np.array([3, 100, 4, 98, 99], np.int32)
    assert [chunk.tolist() for chunk in microbatch_rows(lengths, 10, 64)] == [[1, 4, 3], [2, 0]]
    assert [chunk.tolist() for chunk in microbatch_rows(lengths, 10, 1_000)] == [[1, 4, 3, 2, 0]]
    assert [chunk.tolist() for chunk in microbatch_rows(lengths, 2, 1_000)] == [[1, 4], [3, 2], [0]]


def test_features_are_as_wide_as_their_longest_row() -> None:
    made = encoder_features(side([2, 5, 3]), 0, torch.device("cpu"))
    assert made["input_ids"].tolist() == [[1, 1, 0, 0, 0], [2, 2, 2, 2, 2], [3, 3, 3, 0, 0]]
    assert made["attention_mask"].sum(1).tolist() == [2, 5, 3]


def test_read_only_arrays_are_no_danger() -> None:
    array = np.arange(4)
    array.flags.writeable = False
    to_device(array, torch.device("cpu")).add_(1)
    assert array.tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory is for a GPU")
def test_a_gpu_gets_the_same() -> None:
    tokens = side([3, 9, 1, 9, 2, 5, 3])
    ours, theirs = (encoder_features(tokens, 0, torch.device(name)) for name in ("cuda", "cpu"))
    assert all(torch.equal(ours[name].cpu(), theirs[name]) for name in theirs)
