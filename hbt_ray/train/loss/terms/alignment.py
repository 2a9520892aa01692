"""Alignment: a passage has the same vector in two languages.

    √JSD(softmax(z_a), softmax(z_b))        JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2

over the entries of the vectors z (2604.05684, beside InfoNCE, without which it collapses). The root is a distance, and
its slope has no bound where both are equal; there it is taken as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hbt_ray.config import Config
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.precision import wide
from hbt_ray.train.loss.terms.mean import part_of_mean

_EQUAL = 1e-12
"""A divergence below it is rounding."""


class Alignment(Config):
    """See the module's text."""

    weight: float = Field(1.0, gt=0)
    needs: ClassVar[frozenset[str]] = frozenset({"passage_versions"})

    def part(self, encoded: LossInputs, sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's part of the mean over passages that have a version."""
        assert encoded.passage_versions is not None
        p, q = (wide(side).log_softmax(1) for side in (encoded.passages, encoded.passage_versions.vectors))
        middle = torch.logaddexp(p, q) - torch.tensor(2.0, dtype=p.dtype, device=p.device).log()
        divergence = ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2
        return part_of_mean(divergence.clamp(min=_EQUAL).sqrt(), encoded.passage_versions.there, sizes)
