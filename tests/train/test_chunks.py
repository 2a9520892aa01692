"""Chunks: every row once, the longest first, and vectors back in the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hbt_ray.data.stream.tokens import Tokens
from hbt_ray.train.engine.chunks import chunked, encode, on_device

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """The vector of a row is its first id and its length."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        self.shapes.append(tuple(features["input_ids"].shape))
        first, length = features["input_ids"][:, 0], features["attention_mask"].sum(1)
        return {"sentence_embedding": torch.stack([first, length], 1).double()}


def side(lengths: list[int]) -> Tokens:
    """The ids of row r are all r + 1."""
    return Tokens(np.repeat(np.arange(len(lengths)) + 1, lengths).astype(np.int32), np.array(lengths, np.int32))


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 4, 7, 8, 100])
def test_vectors_are_in_the_order_of_the_rows(chunk_rows: int) -> None:
    lengths = [3, 9, 1, 9, 2, 5, 3]
    vectors = encode(Recorder(), chunked(side(lengths), chunk_rows, 0, CPU))
    assert vectors.tolist() == [[row + 1, length] for row, length in enumerate(lengths)]


def test_parts_are_no_wider_than_their_rows() -> None:
    encoder = Recorder()
    encode(encoder, chunked(side([3, 9, 1, 9, 2, 5, 3]), 3, 0, CPU))
    assert encoder.shapes == [(3, 9), (3, 3), (1, 1)]


def test_what_fits_is_left_as_it_is() -> None:
    chunks = chunked(side([2, 5, 3]), 3, 0, CPU)
    assert chunks.places is None
    assert chunks.parts[0]["input_ids"].tolist() == [[1, 1, 0, 0, 0], [2, 2, 2, 2, 2], [3, 3, 3, 0, 0]]


def test_read_only_arrays_are_no_danger() -> None:
    array = np.arange(4)
    array.flags.writeable = False
    on_device(array, CPU).add_(1)
    assert array.tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory is for a GPU")
def test_a_gpu_gets_the_same() -> None:
    tokens, gpu = side([3, 9, 1, 9, 2, 5, 3]), torch.device("cuda")
    for ours, theirs in zip(chunked(tokens, 3, 0, gpu).parts, chunked(tokens, 3, 0, CPU).parts, strict=True):
        assert all(torch.equal(ours[name].cpu(), theirs[name]) for name in theirs)
