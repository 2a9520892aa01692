"""All-gather of rows over the ranks, with gradients that flow back to the rank that each row came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from hbt_ray.train.loss.tiles import upcast


def first_row(rank_sizes: Sequence[int]) -> int:
    """Position of this rank's first row among the rows of all ranks."""
    return sum(rank_sizes[: dist.get_rank()]) if len(rank_sizes) > 1 else 0


def gather(rows: Tensor, rank_sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks, in rank order, [all rows, …].

    The backward pass is a collective too: every rank must use what it gathered, in the same order as the others.

    Args:
        rows: [rows, …] of this rank. It requires a gradient on all ranks or on none.
        rank_sizes: rows of every rank. They are known from the plan, so no message is needed to learn them.
    """
    if len(rank_sizes) == 1:
        return rows
    # All ranks take the same branch, or some would wait for a backward collective that the others never start.
    return _Gather.apply(rows, tuple(rank_sizes)) if rows.requires_grad else _all_gather(rows, rank_sizes)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank_sizes: tuple[int, ...]) -> Tensor:
        ctx.rank_sizes, ctx.dtype = rank_sizes, rows.dtype
        return _all_gather(rows, rank_sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Sum the gradients of all ranks for this rank's rows, in float32: bf16 would round after every rank."""
        return _reduce_scatter(upcast(gradients[0]), ctx.rank_sizes).to(ctx.dtype), None


# Collectives take tensors of one size, but slices may differ by a row: both directions pad to the longest and cut.


def _all_gather(rows: Tensor, rank_sizes: Sequence[int]) -> Tensor:
    padded = _padded(rows, max(rank_sizes))
    parts = [torch.empty_like(padded) for _ in rank_sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, rank_sizes, strict=True)])


def _reduce_scatter(rows: Tensor, rank_sizes: Sequence[int]) -> Tensor:
    """Sum the rows over the ranks and return this rank's slice, at half the traffic of an all-reduce.

    `rows` stays unchanged, as autograd may share it with other consumers.
    """
    slices = [_padded(part, max(rank_sizes)) for part in rows.split(list(rank_sizes))]
    total = torch.empty_like(slices[0])
    dist.reduce_scatter(total, slices)
    return total[: rank_sizes[dist.get_rank()]]


def _padded(rows: Tensor, length: int) -> Tensor:
    if len(rows) < length:
        rows = torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])
    return rows.contiguous()
