"""Means over the rows of all ranks that a term counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor


def part_of_mean(values: Tensor, counted: Tensor, sizes: Sequence[int]) -> Tensor:
    """This rank's part of the mean; 0 with a graph where no rank has a row that counts.

    Args:
        values: [rows] of this rank; anything finite where a row does not count.
        counted: [rows] bool.
    """
    count = counted.sum().to(values.dtype)
    if len(sizes) > 1:
        dist.all_reduce(count)
    return values.masked_fill(~counted, 0).sum() / count.clamp(min=1)
