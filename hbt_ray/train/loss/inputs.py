"""Inputs of the loss: the vectors of one rank's rows, with their keys, languages and masks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """Mined negatives of one rank's rows, n for each row."""

    vectors: Tensor
    """[rows, n, width], normalised; any finite value where `mask` is False."""
    keys: Tensor
    """[rows, n] int64 passage keys, comparable with `LossInputs.positive_keys`."""
    mask: Tensor
    """[rows, n] bool; False where a row has fewer than n negatives."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Vectors of the rows' questions or passages in another language, or as a teacher encodes them."""

    vectors: Tensor
    """[rows, width], normalised; any finite value where `mask` is False."""
    mask: Tensor
    """[rows] bool; False where a row has no translation."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One rank's rows of a global batch."""

    questions: Tensor
    """[rows, width], normalised."""
    passages: Tensor
    """[rows, width], normalised; row i answers question i."""
    positive_keys: Tensor
    """[rows, n] int64 keys of the passages that answer each question. The key of the row's own passage comes first and
    is repeated if there are fewer than n. Equal passages have equal keys on all ranks."""
    question_languages: Tensor
    """[rows] int64, positions in the plan's languages."""
    passage_languages: Tensor
    """[rows] int64, positions in the plan's languages."""
    hard_negatives: HardNegatives | None = None
    question_translations: Translation | None = None
    """The same questions in another language, encoded by the student."""
    passage_translations: Translation | None = None
    """The same passages in another language, encoded by the student."""
    teacher_questions: Translation | None = None
    """The questions in the teacher's language, encoded by the teacher, without gradient."""
    teacher_passages: Translation | None = None
    """The passages in the teacher's language, encoded by the teacher, without gradient."""
    teacher_scores: Tensor | None = None
    """[rows, 1 + n] float scores of the row's passage, then of its hard negatives; NaN where unknown."""
