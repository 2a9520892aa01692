"""InfoNCE over the global batch, exact on any number of ranks.

For question i with its passage p_i, over all passages p_j of the global batch (2408.10536 eq. 1, with the in-batch
positives of its text, and a temperature, which the paper does not print):

    loss_i = -log  exp(q_i·p_i / t) / Σ_j exp(q_i·p_j / t)        the sum leaves out j ≠ i that share the passage of i

Mined negatives of any row are candidates for every question, so j runs over them as well, and they widen the sum.
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
from hbt_ray.train.loss.encoded import Mined


class LossConfig(Config):
    """The contrastive loss."""

    temperature: float = Field(0.05, gt=0)
    """Cosines are divided by it; smaller is sharper."""


def info_nce(
    questions: Tensor,
    passages: Tensor,
    keys: Tensor,
    temperature: float,
    sizes: Sequence[int],
    mined: Mined | None = None,
) -> Tensor:
    """This rank's part of the global mean loss; the parts of all ranks sum to it.

    Args:
        questions: [rows, width] of this rank, normalised.
        passages: [rows, width] of this rank, row by row the questions' answers.
        keys: [rows] int64, equal where passages are shared.
        sizes: rows of every rank, in rank order; known from the plan, so nothing is sent to learn them.
        mined: negatives of this rank's rows; on every rank or on none, and of equal n on all.
    """
    rank = dist.get_rank() if len(sizes) > 1 else 0
    own = torch.arange(len(questions), device=questions.device)
    place = own + sum(sizes[:rank])
    candidates, excluded = gather(passages, sizes), keys[:, None] == gather(keys, sizes)
    excluded[own, place] = False
    if mined is not None:
        others, absent = _gather_mined(mined, keys, sizes)
        candidates, excluded = torch.cat([candidates, others]), torch.cat([excluded, absent], dim=1)
    scores = _at_least_float32(questions) @ _at_least_float32(candidates).T / temperature
    scores = scores.masked_fill(excluded, -torch.inf)
    return F.cross_entropy(scores, place, reduction="sum") / sum(sizes)


def _gather_mined(mined: Mined, keys: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mined negatives of all ranks, [rows · n, width], and which of them each question must not see."""
    others = gather(mined.passages, sizes).flatten(0, 1)
    # One message for both; gloo sends no bool.
    other_keys, there = gather(torch.stack([mined.keys, mined.there.long()], dim=2), sizes).flatten(0, 1).unbind(1)
    return others, (keys[:, None] == other_keys) | (there == 0)


def gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks, in rank order, with gradients back to the rank that they came from."""
    if len(sizes) == 1:
        return rows
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
