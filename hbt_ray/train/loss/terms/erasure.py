"""Erasure of the language: no entry of the vectors goes along with any language.

    mean over entries d and languages l of  corr(z_d, [row is in l])²

over the questions and passages of the global batch: the penalty on the correlation between embeddings and language
labels of LANCER (2024.emnlp-main.736), with labels as indicators, one for each language of the batch. The correlation
is of the whole batch, so every rank needs all vectors. In a batch of one language nothing correlates: the term is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hbt_ray.config import Config
from hbt_ray.train.loss.gather import gather
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.precision import wide

_CONSTANT = 1e-12
"""A variance below it is rounding."""


class Erasure(Config):
    """See the module's text."""

    weight: float = Field(1.0, gt=0)
    needs: ClassVar[frozenset[str]] = frozenset()

    def part(self, encoded: LossInputs, sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's part: every rank computes the whole value, and gives an equal share of it."""
        sides = (encoded.questions, encoded.passages)
        vectors = torch.cat([gather(wide(side), sizes) for side in sides])
        labels = torch.cat([gather(codes, sizes) for codes in (encoded.question_languages, encoded.passage_languages)])
        languages = labels.unique()
        indicators = (labels[:, None] == languages).to(vectors.dtype)
        z, y = (columns - columns.mean(0) for columns in (vectors, indicators))
        covariance = z.T @ y / len(z)
        variances = (z * z).mean(0)[:, None] * (y * y).mean(0)
        correlation = torch.where(variances > _CONSTANT, covariance**2 / variances.clamp(min=_CONSTANT), 0)
        return correlation.mean() / len(sizes)
