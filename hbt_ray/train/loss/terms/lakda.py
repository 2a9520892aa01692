"""LaKDA: a question weighs the passages of the batch as its version in another language does.

    KL(p_b || p_a) = Σ_j p_b(j) · (log p_b(j) - log p_a(j))        p_x(j) ∝ exp(q_x·d_j / t) over the batch's passages j

(Language Bias in Multilingual Information Retrieval, MRL 2024, 2024.mrl-1.23.) There L = (1-a) InfoNCE + a KL, so a
weight of a / (1-a) has the same minimum: 1 for their a of 0.5. q_a is the row's question as it was drawn, q_b its other
version. Both sides carry gradients, as in the one public implementation that was found (MIMO's baseline, 2605.31171),
which compares plain cosines: at that temperature of 1 no passage weighs more than e² = 7.4 times as much as another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hbt_ray.config import Config
from hbt_ray.train.loss.gather import gather, own_start
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.positives import share_key
from hbt_ray.train.loss.precision import full_precision, wide
from hbt_ray.train.loss.terms.mean import part_of_mean

_ROWS_AT_ONCE = 512
"""So that memory is that of so many rows of the similarity matrix; each is computed again in the backward pass."""


class Lakda(Config):
    """See the module's text."""

    weight: float = Field(1.0, gt=0)
    temperature: float | None = Field(None, gt=0)
    """Cosines are divided by it; by default that of the loss. 1 is the original."""
    needs: ClassVar[frozenset[str]] = frozenset({"question_versions"})

    def part(self, encoded: LossInputs, sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's part of the mean over questions that have a version."""
        assert encoded.question_versions is not None
        own, other = wide(encoded.questions), wide(encoded.question_versions.vectors)
        passages, keys = gather(wide(encoded.passages), sizes), gather(encoded.right_keys[:, :1], sizes)
        places = torch.arange(len(own), device=own.device) + own_start(sizes)
        blocks = zip(*(x.split(_ROWS_AT_ONCE) for x in (own, other, encoded.right_keys, places)), strict=True)
        heat = self.temperature or temperature
        values = [checkpoint(_divergence, *block, passages, keys, heat, use_reentrant=False) for block in blocks]
        return part_of_mean(torch.cat(values), encoded.question_versions.there, sizes)


def _divergence(
    own: Tensor,
    other: Tensor,
    right_keys: Tensor,
    places: Tensor,
    passages: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """[rows]; passages that answer a row's question are left out but for the row's own, as in InfoNCE."""
    right = share_key(right_keys, keys)
    right[torch.arange(len(places), device=places.device), places] = False
    with full_precision(own.device):  # Here, so that it holds where the backward pass computes it again.
        a, b = (
            (questions @ passages.T / temperature).masked_fill(right, -torch.inf).log_softmax(1)
            for questions in (own, other)
        )
    return (b.exp() * (b - a).masked_fill(right, 0)).sum(1)
