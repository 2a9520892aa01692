"""Gathering: rows of all ranks on every rank, with gradients back to the rank that each came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def own_start(sizes: Sequence[int]) -> int:
    """Where this rank's rows begin among those of all ranks."""
    return sum(sizes[: dist.get_rank()]) if len(sizes) > 1 else 0


def gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks, in rank order.

    Args:
        rows: [rows, …] of this rank.
        sizes: rows of every rank; known from the plan, so nothing is sent to learn them.
    """
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
        """What every rank asked of this rank's rows, summed."""
        total, sizes = gradients[0].contiguous(), ctx.sizes
        if dist.get_backend() == "nccl" and len(set(sizes)) == 1:
            own = torch.empty_like(total[: sizes[0]])
            dist.reduce_scatter_tensor(own, total)
            return own, None
        dist.all_reduce(total)
        return total.split(sizes)[dist.get_rank()], None


def _all_gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Slices may differ by a row, which collectives do not take: pad, gather, cut."""
    longest = max(sizes)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
