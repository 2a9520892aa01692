"""Tiled InfoNCE: the loss and its gradient without holding the similarity matrix of n queries and m candidates.

    loss = Σ_i  log Σ_{j allowed} exp(z_ij) - z_ip(i)        z_ij = q_i·c_j / t,  p(i): index of query i's positive

Candidate j is allowed for query i if j = p(i), or if it is not masked and shares no key with the query. The forward
pass walks over tiles of the matrix and keeps for every query the logarithm of the sum so far (the online softmax of
1805.02867). The backward pass computes each tile again, as softmax shares s_ij = exp(z_ij - that logarithm):

    ∂loss/∂q_i = Σ_j (s_ij - [j = p(i)]) c_j / t        ∂loss/∂c_j = Σ_i (s_ij - [j = p(i)]) q_i / t
    ∂loss/∂t = -Σ_ij (s_ij - [j = p(i)]) z_ij / t = -Σ_i q_i · ∂loss/∂q_i / t

The price is one more matrix product of the two sides, which is little beside the encoder. Memory is that of the vectors
and of about three tiles, for any batch size. If a single tile holds the whole matrix, its shares are kept and
nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class PairKeys(NamedTuple):
    """Keys that determine the positive of each query and the candidates that may be its negatives."""

    positives: Tensor
    """[n] int64 index of each query's own positive among the candidates. The two share a key."""
    query_keys: Tensor
    """[n, a] int64 (see `share_key`)."""
    candidate_keys: Tensor
    """[m, b] int64."""
    candidate_mask: Tensor | None = None
    """[m] bool: False for padding, which never counts. None if all candidates count. Positives always count."""


def tiled_info_nce(
    queries: Tensor, candidates: Tensor, temperature: float | Tensor, pair_keys: PairKeys, tile: int
) -> Tensor:
    """InfoNCE summed over the queries, in float32 at least.

    Args:
        queries: [n, width], normalised.
        candidates: [m, width], normalised.
        temperature: a number, or a scalar tensor that may require a gradient.
        pair_keys: positives and excluded pairs.
        tile: rows and columns of the similarity matrix that are in memory at once.
    """
    # A Python number becomes a float64 scalar on the CPU: torch promotes it to the vectors' type and device.
    if not isinstance(temperature, Tensor):
        temperature = torch.tensor(temperature, dtype=torch.float64)
    loss: Tensor = _TiledInfoNCE.apply(queries, candidates, temperature, pair_keys, tile)
    return loss


class _TiledInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, temperature: Tensor, pair_keys: PairKeys, tile: int
    ) -> Tensor:
        positive_scores = upcast(queries).new_empty(len(queries))  # z_ip(i), [n]
        log_sums, shares = torch.empty_like(positive_scores), None  # log Σ_j exp(z_ij), [n]
        single_tile = max(len(queries), len(candidates)) <= tile
        with full_precision(queries.device):
            for rows in _slices(queries, tile):
                scaled = upcast(queries[rows]) / temperature
                positives = upcast(candidates[pair_keys.positives[rows]])
                # The sum starts with the positive; each tile adds its negatives.
                positive_scores[rows] = log_sums[rows] = (scaled * positives).sum(1)
                for columns in _slices(candidates, tile):
                    scores = _negative_scores(scaled, upcast(candidates[columns]), pair_keys, rows, columns)
                    log_sums[rows] = torch.logaddexp(log_sums[rows], scores.logsumexp(1))
                    shares = scores.sub_(log_sums[rows, None]).exp_() if single_tile else None
        # The fields of PairKeys are tensors or None, both of which `save_for_backward` takes.
        ctx.save_for_backward(queries, candidates, temperature, positive_scores, log_sums, shares, *pair_keys)
        ctx.tile = tile
        return (log_sums - positive_scores).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates, temperature, positive_scores, log_sums, kept_shares, *keys = ctx.saved_tensors
        pair_keys = PairKeys(*keys)
        query_grad, candidate_grad = (torch.zeros_like(upcast(side)) for side in (queries, candidates))
        temperature_grad = positive_scores.new_zeros(())
        with full_precision(queries.device):
            for rows in _slices(queries, ctx.tile):
                scaled, positives = upcast(queries[rows]) / temperature, pair_keys.positives[rows]
                # The positive's s_ip(i) - 1, [rows, 1]. expm1 keeps its digits when the share is close to 1.
                pull = torch.expm1(positive_scores[rows] - log_sums[rows])[:, None]
                weighted_sum = pull * upcast(candidates[positives])  # t · ∂loss/∂q, [rows, width]
                candidate_grad.index_add_(0, positives, pull * scaled)
                for columns in _slices(candidates, ctx.tile):
                    others = upcast(candidates[columns])
                    shares = kept_shares
                    if shares is None:
                        scores = _negative_scores(scaled, others, pair_keys, rows, columns)
                        shares = scores.sub_(log_sums[rows, None]).exp_()
                    weighted_sum.addmm_(shares, others)
                    candidate_grad[columns].addmm_(shares.T, scaled)
                temperature_grad -= (scaled * weighted_sum).sum() / temperature
                query_grad[rows] = weighted_sum / temperature
        upstream = gradients[0]
        return query_grad.mul_(upstream), candidate_grad.mul_(upstream), upstream * temperature_grad, None, None


def _slices(vectors: Tensor, tile: int) -> Iterator[slice]:
    return (slice(start, start + tile) for start in range(0, len(vectors), tile))


def _negative_scores(scaled: Tensor, candidates: Tensor, pair_keys: PairKeys, rows: slice, columns: slice) -> Tensor:
    """One tile of the matrix, [rows, columns]: -inf at the positive, which is added apart, and at excluded pairs."""
    excluded = share_key(pair_keys.query_keys[rows], pair_keys.candidate_keys[columns])
    if pair_keys.candidate_mask is not None:
        excluded |= ~pair_keys.candidate_mask[None, columns]
    return (scaled @ candidates.T).masked_fill_(excluded, -torch.inf)


def share_key(queries: Tensor, candidates: Tensor) -> Tensor:
    """Whether query i and candidate j have a key in common, [n, m] bool.

    Args:
        queries: [n, a] int64. The keys of a question are those of all passages that answer it; a passage has one key.
        candidates: [m, b] int64, likewise. Either a or b is 1.
    """
    if candidates.shape[1] > 1:
        return share_key(candidates, queries).T
    keys = candidates[:, 0]
    if queries.shape[1] == 1:
        return queries == keys
    # Each key of a query is a range of the sorted candidates. A range adds 1 at its start and -1 at its end, and the
    # running sum is positive inside. Memory is that of the result for any number of keys, without a device sync.
    sorted_keys, order = keys.sort()
    first, end = (torch.searchsorted(sorted_keys, queries, right=right) for right in (False, True))
    steps = queries.new_zeros(len(queries), len(keys) + 1, dtype=torch.int32)
    ones = torch.ones_like(first, dtype=torch.int32)
    steps.scatter_add_(1, first, ones).scatter_add_(1, end, -ones)
    inside = steps.cumsum(1, dtype=torch.int32)[:, :-1] > 0
    return torch.empty_like(inside).index_copy_(1, order, inside)


def upcast(vectors: Tensor) -> Tensor:
    """Cast vectors to float32, unless they are float64. bf16 logits are too coarse for a temperature of 0.01."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in float32, without TF32 and autocast.

    TF32 has ten bits of mantissa: at a temperature of 0.01 a score would be off by a twentieth. The precision is set
    per backend, since the older `get_float32_matmul_precision` raises once a process has used the newer interface.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # made at import
    previous = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, previous, strict=True):
            backend.fp32_precision = precision
