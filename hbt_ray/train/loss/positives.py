"""Positives: which candidates are right for a query, and so may not be its negatives."""

from __future__ import annotations

import torch
from torch import Tensor


def share_key(queries: Tensor, candidates: Tensor) -> Tensor:
    """Whether a query and a candidate have a key in common, [n, m] bool.

    Args:
        queries: [n, a] int64 keys; of a question, those of all passages that answer it; of a passage, its own.
        candidates: [m, b], likewise. One of a and b is 1.
    """
    if candidates.shape[1] > 1:
        return share_key(candidates, queries).T
    keys = candidates[:, 0]
    if queries.shape[1] == 1:
        return queries == keys
    # A query's keys are ranges of the sorted candidates. Each range adds one at its start and takes it back at its end,
    # so that memory is that of the result whatever the number of keys, and nothing waits for the device.
    ordered, order = keys.sort()
    first, end = (torch.searchsorted(ordered, queries, right=right) for right in (False, True))
    steps = queries.new_zeros(len(queries), len(keys) + 1, dtype=torch.int32)
    ones = torch.ones_like(first, dtype=torch.int32)
    steps.scatter_add_(1, first, ones).scatter_add_(1, end, -ones)
    inside = steps.cumsum(1, dtype=torch.int32)[:, :-1] > 0
    return torch.empty_like(inside).index_copy_(1, order, inside)
