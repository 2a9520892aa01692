"""What the objective sees of a step: one rank's vectors, row by row, and what is known about the rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """Mined negatives of one rank's rows, n for each."""

    passages: Tensor
    """[rows, n, width], normalised; anything finite where there is none."""
    keys: Tensor
    """[rows, n] int64, as those of all passages."""
    there: Tensor
    """[rows, n] bool; False where the row has fewer than n."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Another rendering of the rows' questions or passages: in another language, or by a teacher."""

    vectors: Tensor
    """[rows, width], normalised; anything finite where there is none."""
    there: Tensor
    """[rows] bool; False where the row has none."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One rank's rows of a global batch."""

    questions: Tensor
    """[rows, width], normalised."""
    passages: Tensor
    """[rows, width], row by row the questions' answers."""
    right_keys: Tensor
    """[rows, n] int64: keys of the passages that answer each question, first of its own one, which is repeated where
    there are fewer than n. Passages have equal keys if they are the same, on any rank."""
    question_languages: Tensor
    """[rows] int64, positions in the plan's languages."""
    passage_languages: Tensor
    mined: HardNegatives | None = None
    question_versions: Translation | None = None
    """The same questions in another language, by the student."""
    passage_versions: Translation | None = None
    teacher_questions: Translation | None = None
    """The English questions, by the teacher; without gradients."""
    teacher_passages: Translation | None = None
    teacher_scores: Tensor | None = None
    """[rows, 1 + n] float, of the passage and the mined negatives; NaN where unknown."""
