"""InfoNCE by tiles: the similarity matrix of n queries and m candidates is never held whole.

    loss = Σ_i  log Σ_{j allowed} exp(q_i·c_j / t)  -  q_i·c_{p(i)} / t        p(i): the place of query i's own positive

A candidate is allowed if it is there and is no other rendering of the query's own positive, that is, has another key.
The forward pass walks over tiles of the matrix and keeps for every query the logarithm of the sum so far (the online
softmax of 1805.02867); the backward pass computes each tile again. That costs one more product of the two sides, which
is little beside the encoder, and memory is that of the vectors and of one tile, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pairing(NamedTuple):
    """Who may be compared with whom."""

    places: Tensor
    """[n] int64: the candidate that is the query's own positive."""
    query_keys: Tensor
    """[n] int64."""
    candidate_keys: Tensor
    """[m] int64."""
    there: Tensor | None = None
    """[m] bool: candidates to be counted; None for all."""


def tiled_info_nce(queries: Tensor, candidates: Tensor, temperature: Tensor, pairing: Pairing, tile: int) -> Tensor:
    """The loss above, summed over the queries.

    Args:
        queries: [n, width], normalised; float32 at least.
        candidates: [m, width], likewise.
        temperature: a scalar, which may want a gradient.
        tile: rows and columns of the matrix that are in memory at once.
    """
    loss: Tensor = _Tiled.apply(queries, candidates, temperature, pairing, tile)
    return loss


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, temperature: Tensor, pairing: Pairing, tile: int
    ) -> Tensor:
        sums = queries.new_full((len(queries),), -torch.inf)
        with _full_precision():
            for rows, columns in _tiles(queries, candidates, tile):
                scores = _scores(queries[rows], candidates[columns], temperature, pairing, rows, columns)
                sums[rows] = torch.logaddexp(sums[rows], scores.logsumexp(1))
        own = (queries * candidates[pairing.places]).sum(1) / temperature
        ctx.save_for_backward(queries, candidates, temperature, sums, own)
        ctx.pairing, ctx.tile = pairing, tile
        return (sums - own).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates, temperature, sums, own = ctx.saved_tensors
        places = ctx.pairing.places
        of_queries, of_candidates = torch.zeros_like(queries), torch.zeros_like(candidates)
        pull = own.sum()  # Σ_i of the own score, and less what the softmax expects of it: -t · ∂loss/∂t.
        with _full_precision():
            for rows, columns in _tiles(queries, candidates, ctx.tile):
                scores = _scores(queries[rows], candidates[columns], temperature, ctx.pairing, rows, columns)
                shares = (scores - sums[rows, None]).exp_()
                of_queries[rows] += shares @ candidates[columns]
                of_candidates[columns] += shares.T @ queries[rows]
                if ctx.needs_input_grad[2]:
                    pull = pull - (shares * scores.masked_fill_(shares == 0, 0)).sum()
        of_queries -= candidates[places]
        of_candidates.index_add_(0, places, queries, alpha=-1)
        scale = gradients[0] / temperature
        return of_queries.mul_(scale), of_candidates.mul_(scale), scale * pull, None, None


@contextmanager
def _full_precision() -> Iterator[None]:
    """TF32 has ten bits: at a temperature of 0.01 a score would be off by a twentieth."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _tiles(queries: Tensor, candidates: Tensor, tile: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, len(queries), tile):
        for column in range(0, len(candidates), tile):
            yield slice(row, row + tile), slice(column, column + tile)


def _scores(
    queries: Tensor, candidates: Tensor, temperature: Tensor, pairing: Pairing, rows: slice, columns: slice
) -> Tensor:
    """A tile of the matrix, -inf where the candidate does not count."""
    excluded = pairing.query_keys[rows, None] == pairing.candidate_keys[None, columns]
    if pairing.there is not None:
        excluded |= ~pairing.there[None, columns]
    own = pairing.places[rows] - columns.start
    inside = torch.nonzero((own >= 0) & (own < len(candidates))).squeeze(1)
    excluded[inside, own[inside]] = False
    return (queries @ candidates.T).div_(temperature).masked_fill_(excluded, -torch.inf)
