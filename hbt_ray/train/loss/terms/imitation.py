"""Imitation: vectors are where an English teacher puts the English text.

    1 - cos(student(x in its language), teacher(x in English))

of questions and passages (Reimers and Gurevych, 2004.09813, with the cosine of MIMO, 2605.31171). The teacher is frozen
and has the student's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hbt_ray.config import Config
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.precision import wide
from hbt_ray.train.loss.terms.mean import part_of_mean


class Imitation(Config):
    """See the module's text."""

    weight: float = Field(1.0, gt=0)
    needs: ClassVar[frozenset[str]] = frozenset({"teacher_questions", "teacher_passages"})

    def part(self, encoded: LossInputs, sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's part of the mean over the texts that the teacher has in English."""
        assert encoded.teacher_questions is not None
        assert encoded.teacher_passages is not None
        taught = (encoded.teacher_questions, encoded.teacher_passages)
        student = torch.cat([wide(encoded.questions), wide(encoded.passages)])
        teacher = torch.cat([wide(side.vectors) for side in taught])
        return part_of_mean(1 - cosine_similarity(student, teacher), torch.cat([side.there for side in taught]), sizes)
