"""InfoNCE by tiles: the similarity matrix of n queries and m candidates is never held whole.

    loss = Σ_i  log Σ_{j allowed} exp(z_ij) - z_ip(i)        z_ij = q_i·c_j / t,  p(i): the place of i's own positive

Allowed are p(i) and every candidate that is there and has no key in common with the query. The forward pass walks over
tiles of the matrix and keeps for every query the logarithm of the sum so far (the online softmax of 1805.02867),
beginning with the own positive. The backward pass computes each tile again, as shares
s_ij = exp(z_ij - that logarithm):

    ∂loss/∂q_i = Σ_j (s_ij - [j = p(i)]) c_j / t        ∂loss/∂c_j = Σ_i (s_ij - [j = p(i)]) q_i / t
    ∂loss/∂t = -Σ_ij (s_ij - [j = p(i)]) z_ij / t = -Σ_i q_i · ∂loss/∂q_i / t

That costs one more product of the two sides, which is little beside the encoder. Memory is that of the vectors and of
some three tiles, whatever the batch. A matrix of a single tile keeps its shares, and computes nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hbt_ray.train.loss.positives import share_key
from hbt_ray.train.loss.precision import full_precision, wide


class Pairing(NamedTuple):
    """Who may be compared with whom."""

    places: Tensor
    """[n] int64: the candidate that is the query's own positive. They have a key in common."""
    query_keys: Tensor
    """[n, a] int64 (see `share_key`)."""
    candidate_keys: Tensor
    """[m, b] int64."""
    there: Tensor | None = None
    """[m] bool: candidates to be counted; None for all. Own positives always count."""


def tiled_info_nce(
    queries: Tensor, candidates: Tensor, temperature: float | Tensor, pairing: Pairing, tile: int
) -> Tensor:
    """The loss above, summed over the queries, in float32 at least.

    Args:
        queries: [n, width], normalised.
        candidates: [m, width], likewise.
        temperature: a number, or a scalar that may want a gradient.
        tile: rows and columns of the matrix that are in memory at once.
    """
    # A number stays one of 64 bits, and on the CPU: beside tensors it counts as a scalar of their type and place.
    heat = temperature if isinstance(temperature, Tensor) else torch.tensor(temperature, dtype=torch.float64)
    loss: Tensor = _Tiled.apply(queries, candidates, heat, pairing, tile)
    return loss


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, temperature: Tensor, pairing: Pairing, tile: int
    ) -> Tensor:
        own = wide(queries).new_empty(len(queries))
        sums, shares = torch.empty_like(own), None
        single = max(len(queries), len(candidates)) <= tile
        with full_precision(queries.device):
            for rows in _blocks(queries, tile):
                scaled = wide(queries[rows]) / temperature
                own[rows] = sums[rows] = (scaled * wide(candidates[pairing.places[rows]])).sum(1)
                for columns in _blocks(candidates, tile):
                    scores = _scores(scaled, wide(candidates[columns]), pairing, rows, columns)
                    sums[rows] = torch.logaddexp(sums[rows], scores.logsumexp(1))
                    shares = scores.sub_(sums[rows, None]).exp_() if single else None
        ctx.save_for_backward(queries, candidates, temperature, own, sums, shares, *pairing)
        ctx.tile = tile
        return (sums - own).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates, temperature, own, sums, kept, *rest = ctx.saved_tensors
        pairing = Pairing(*rest)
        of_queries, of_candidates = (torch.zeros_like(wide(side)) for side in (queries, candidates))
        slope = own.new_zeros(())
        with full_precision(queries.device):
            for rows in _blocks(queries, ctx.tile):
                scaled, places = wide(queries[rows]) / temperature, pairing.places[rows]
                pull = torch.expm1(own[rows] - sums[rows])[:, None]  # Of the own positive: its share less one.
                pulled = pull * wide(candidates[places])
                of_candidates.index_add_(0, places, pull * scaled)
                for columns in _blocks(candidates, ctx.tile):
                    others = wide(candidates[columns])
                    shares = kept
                    if shares is None:
                        shares = _scores(scaled, others, pairing, rows, columns).sub_(sums[rows, None]).exp_()
                    pulled.addmm_(shares, others)
                    of_candidates[columns].addmm_(shares.T, scaled)
                slope -= (scaled * pulled).sum() / temperature
                of_queries[rows] = pulled / temperature
        given = gradients[0]
        return of_queries.mul_(given), of_candidates.mul_(given), given * slope, None, None


def _blocks(vectors: Tensor, tile: int) -> Iterator[slice]:
    return (slice(start, start + tile) for start in range(0, len(vectors), tile))


def _scores(scaled: Tensor, others: Tensor, pairing: Pairing, rows: slice, columns: slice) -> Tensor:
    """A tile of the matrix, -inf where the candidate does not count, and at the own positive, which has counted."""
    excluded = share_key(pairing.query_keys[rows], pairing.candidate_keys[columns])
    if pairing.there is not None:
        excluded |= ~pairing.there[None, columns]
    return (scaled @ others.T).masked_fill_(excluded, -torch.inf)
