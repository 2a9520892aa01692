"""Gathering: rows of all ranks on every rank, with gradients back to the rank that each came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from hbt_ray.train.loss.precision import wide


def own_start(sizes: Sequence[int]) -> int:
    """Where this rank's rows begin among those of all ranks."""
    return sum(sizes[: dist.get_rank()]) if len(sizes) > 1 else 0


def gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks, in rank order.

    The backward pass is a collective too: every rank must use what it gathered, in the same order as the others.

    Args:
        rows: [rows, …] of this rank; on all ranks with a gradient, or on none.
        sizes: rows of every rank; known from the plan, so nothing is sent to learn them.
    """
    if len(sizes) == 1:
        return rows
    return _Gather.apply(rows, tuple(sizes)) if rows.requires_grad else _all_gather(rows, sizes)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes, ctx.kind = sizes, rows.dtype
        return _all_gather(rows, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """What every rank asked of this rank's rows, summed; in float32, as bf16 would round after every rank."""
        return _reduce_scatter(wide(gradients[0]), ctx.sizes).to(ctx.kind), None


# Slices may differ by a row, which collectives do not take: both ways are padded to the longest and cut again.


def _all_gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    padded = _padded(rows, max(sizes))
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _reduce_scatter(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Half of what an all-reduce sends, and nothing of the gradient, which others may hold too, is written to."""
    slices = [_padded(part, max(sizes)) for part in rows.split(list(sizes))]
    own = torch.empty_like(slices[0])
    dist.reduce_scatter(own, slices)
    return own[: sizes[dist.get_rank()]]


def _padded(rows: Tensor, length: int) -> Tensor:
    if len(rows) < length:
        rows = torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])
    return rows.contiguous()
