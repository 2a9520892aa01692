"""The gradient-cached encoder: any micro-batches and any budget give the vectors and gradients of one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder
from tests.train.encoders import TinyEncoder
from tests.train.processes import on_ranks

CPU = torch.device("cpu")
NUM_ROWS = 13


def texts(part: slice = slice(None)) -> Tokens:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 40, NUM_ROWS).astype(np.int32)
    whole = Tokens.from_lengths(rng.integers(1, 50, lengths.sum()).astype(np.int32), lengths)
    return whole[np.arange(NUM_ROWS)[part]]


def upstream_gradient(part: slice = slice(None)) -> Tensor:
    """A gradient of the vectors."""
    return torch.randn(NUM_ROWS, 16, generator=torch.Generator().manual_seed(8), dtype=torch.float64)[part]


def encode_and_backward(
    chunk_rows: int, activation_tokens: int | None, dropout: float = 0.0, part: slice = slice(None), world_size: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Vectors, and gradients of the weights."""
    encoder = TinyEncoder(torch.float64, dropout).train()
    budget = EncodeLimits(chunk_rows, activation_tokens)
    cached_encoder = GradCacheEncoder(encoder, padding_id=0, limits=budget, world_size=world_size, device=CPU)
    encoding = cached_encoder.encode(texts(part), 5, 1)
    encoding.backward(upstream_gradient(part))
    return encoding.vectors, [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]


BUDGETS = [(rows, tokens) for rows in (1, 3, 8, 0) for tokens in (None, 0, 60, 10_000)]


@pytest.mark.parametrize(("chunk_rows", "activation_tokens"), BUDGETS)
def test_any_budget_gives_what_one_pass_gives(chunk_rows: int, activation_tokens: int | None) -> None:
    encoder = TinyEncoder(torch.float64).train()
    padded = torch.from_numpy(texts().padded(0)).long()
    plain = encoder({"input_ids": padded, "attention_mask": (padded != 0).long()})["sentence_embedding"]
    plain.backward(upstream_gradient())
    vectors, gradients = encode_and_backward(chunk_rows, activation_tokens)
    assert (vectors - plain.detach()).abs().max() < 1e-12
    for ours, theirs in zip(gradients, encoder.parameters(), strict=True):
        assert theirs.grad is not None
        assert (ours - theirs.grad).abs().max() < 1e-12


@pytest.mark.parametrize("activation_tokens", [0, 60])
def test_the_second_pass_draws_the_random_numbers_of_the_first(activation_tokens: int) -> None:
    vectors, gradients = encode_and_backward(3, None, dropout=0.5)
    again, same = encode_and_backward(3, activation_tokens, dropout=0.5)
    assert torch.equal(again, vectors)
    assert all((ours - theirs).abs().max() < 1e-12 for ours, theirs in zip(same, gradients, strict=True))
    assert not torch.equal(encode_and_backward(3, None)[0], vectors)  # There was dropout.


def slice_of(rank: int, ends: list[int]) -> slice:
    return slice(ends[rank], ends[rank + 1])


def on_rank(rank: int, ends: list[int]) -> list[list[Tensor]]:
    part = slice_of(rank, ends)
    return [encode_and_backward(rows, tokens, 0.0, part, len(ends) - 1)[1] for rows, tokens in BUDGETS]


@pytest.mark.parametrize("ends", [[0, 6, 13], [0, 1, 12, 13]])  # A rank of one text has one chunk, others have many.
def test_gradients_of_all_ranks_are_summed_once(ends: list[int]) -> None:
    _, gradients = encode_and_backward(0, None)
    for rank in on_ranks(len(ends) - 1, on_rank, ends):
        for ours in rank:
            assert all((mine - theirs).abs().max() < 1e-12 for mine, theirs in zip(ours, gradients, strict=True))


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = TinyEncoder(torch.float32), 0

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        self.passes += 1
        return self.inner(features)


@pytest.mark.parametrize(("activation_tokens", "passes"), [(None, 13), (0, 26), (39, 25)])
def test_only_microbatches_beyond_the_budget_are_encoded_twice(activation_tokens: int | None, passes: int) -> None:
    encoder = Counting()
    cached_encoder = GradCacheEncoder(
        encoder, padding_id=0, limits=EncodeLimits(1, activation_tokens), world_size=1, device=CPU
    )
    encoding = cached_encoder.encode(texts(), 0)
    encoding.backward(upstream_gradient().float())
    assert encoder.passes == passes
