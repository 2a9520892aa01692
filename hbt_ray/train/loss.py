"""InfoNCE over the global batch, exact on any number of ranks.

For question i with its passage p_i, over all passages p_j of the global batch (2408.10536 eq. 1, with the in-batch
positives of its text, and a temperature, which the paper does not print):

    loss_i = -log  exp(q_i·p_i / t) / Σ_j exp(q_i·p_j / t)        the sum leaves out j ≠ i that share the passage of i

Rows that share a passage, in whatever language, would be false negatives; they are told by their passage keys.
Each rank holds a slice of the questions and sees all passages. Gathering carries gradients: the backward pass sums what
every rank's questions asked of a passage, so the gradients of all ranks sum to that of one process on the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hbt_ray.config import Config


class LossConfig(Config):
    """The contrastive loss."""

    temperature: float = Field(0.05, gt=0)
    """Cosines are divided by it; smaller is sharper."""


def info_nce(questions: Tensor, passages: Tensor, keys: Tensor, temperature: float, sizes: Sequence[int]) -> Tensor:
    """This rank's part of the global mean loss; the parts of all ranks sum to it.

    Args:
        questions: [rows, width] of this rank, normalised.
        passages: [rows, width] of this rank, row by row the questions' answers.
        keys: [rows] int64, equal where passages are shared.
        sizes: rows of every rank, in rank order; known from the plan, so nothing is sent to learn them.
    """
    rank = dist.get_rank() if len(sizes) > 1 else 0
    offset = sum(sizes[:rank])
    if len(sizes) > 1:
        passages = gather(passages, sizes)
        all_keys = gather(keys, sizes)
    else:
        all_keys = keys
    scores = _at_least_float32(questions) @ _at_least_float32(passages).T / temperature
    own = torch.arange(len(questions), device=scores.device) + offset
    shared = keys[:, None] == all_keys[None, :]
    shared[torch.arange(len(questions)), own] = False
    scores = scores.masked_fill(shared, -torch.inf)
    return F.cross_entropy(scores, own, reduction="sum") / sum(sizes)


def gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks, in rank order, with gradients back to the rank that they came from."""
    return _Gather.apply(rows, tuple(sizes)) if rows.requires_grad else _all_gather(rows, sizes)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather(rows, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[dist.get_rank()], None


def _all_gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Slices may differ by a row, which collectives do not take: pad, gather, cut."""
    longest = max(sizes)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _at_least_float32(vectors: Tensor) -> Tensor:
    """Logits of bf16 vectors would be too coarse for a temperature of 0.01."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()
