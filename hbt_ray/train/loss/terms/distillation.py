"""Distillation: the student weighs a row's candidates, in whatever language, as a teacher weighed them in English.

    KL(p_T || p_S) = Σ_j p_T(j) · (log p_T(j) - log p_S(j))        j over the row's passage and its own mined negatives

p_T is the softmax of the teacher's scores, which `hbt mine` keeps beside the negatives, p_S that of the student's
cosines (Translate-Distill, 2401.04810; 2405.00977). A candidate without a score is left out, as is a mined one that is
known to answer the question; so is a row with fewer than two candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hbt_ray.config import Config
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.precision import full_precision, wide
from hbt_ray.train.loss.terms.mean import part_of_mean


class Distillation(Config):
    """See the module's text."""

    weight: float = Field(1.0, gt=0)
    teacher_temperature: float = Field(1.0, gt=0)
    """The teacher's scores are divided by it: 1 for logits of a cross-encoder, the loss's own for cosines."""
    needs: ClassVar[frozenset[str]] = frozenset({"mined", "teacher_scores"})

    def part(self, encoded: LossInputs, sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's part of the mean over rows with two scored candidates at least."""
        assert encoded.mined is not None
        assert encoded.teacher_scores is not None
        passages = torch.cat([encoded.passages[:, None], encoded.mined.passages], dim=1)
        with full_precision(passages.device):
            student = torch.einsum("rw,rnw->rn", wide(encoded.questions), wide(passages)) / temperature
        right = (encoded.mined.keys[:, :, None] == encoded.right_keys[:, None, :]).any(2)
        here = torch.ones_like(encoded.mined.there[:, :1])
        known = torch.cat([here, encoded.mined.there & ~right], dim=1) & ~encoded.teacher_scores.isnan()
        counted = known.sum(1) >= 2
        # Rows that do not count keep finite numbers, so that no gradient of theirs is NaN.
        known = known | ~counted[:, None]
        teacher = encoded.teacher_scores.nan_to_num().to(student.dtype) / self.teacher_temperature
        t, s = (scores.masked_fill(~known, -torch.inf).log_softmax(1) for scores in (teacher, student))
        values = (t.exp() * (t - s).masked_fill(~known, 0)).sum(1)
        return part_of_mean(values, counted, sizes)
