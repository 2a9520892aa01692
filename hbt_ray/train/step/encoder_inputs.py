"""The texts of a batch that go through an encoder, and the way back from its vectors to the sections of the batch.

All texts go through together, so that micro-batches are cut by length alone, and a rank whose rows have no negative at
all takes part in every collective like the others. Missing texts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from hbt_ray.data.stream.rank_batch import NEGATIVES, PASSAGES, QUESTIONS, RankBatch
from hbt_ray.model.microbatch import to_device
from hbt_ray.train.loss.inputs import HardNegatives, LossInputs, Translation

STUDENT_TRANSLATIONS = ("question_versions", "passage_versions")
TEACHER_TRANSLATIONS = ("teacher_questions", "teacher_passages")


class SectionTexts:
    """The texts of some sections of a batch, without missing ones."""

    def __init__(self, batch: RankBatch, names: Sequence[str]) -> None:
        self._sections = batch.texts.select(names)
        self._present = self._sections.present
        self.tokens = self._sections.tokens[np.flatnonzero(self._present)]

    def split(self, vectors: Tensor) -> dict[str, Translation]:
        """By section the vectors, [section, width], from those of `tokens`; zeros for missing texts."""
        rows, device = vectors, vectors.device
        if not self._present.all():
            places = to_device(np.flatnonzero(self._present), device)
            rows = vectors.new_zeros(len(self._present), vectors.shape[1]).index_copy(0, places, vectors)
        sizes = list(self._sections.sizes.values())
        parts = zip(self._sections.sizes, rows.split(sizes), to_device(self._present, device).split(sizes), strict=True)
        return {name: Translation(part, present) for name, part, present in parts}


class EncoderInputs:
    """The student's texts of a batch: questions, passages, mined negatives, translations."""

    def __init__(self, batch: RankBatch) -> None:
        self._batch = batch
        negatives = (NEGATIVES,) if len(batch.negative_keys) else ()
        self._texts = SectionTexts(batch, (QUESTIONS, PASSAGES, *negatives, *STUDENT_TRANSLATIONS))
        self.tokens = self._texts.tokens

    def encoded(self, vectors: Tensor, teacher: Mapping[str, Translation]) -> LossInputs:
        """What the objective sees, from the vectors of `tokens`, [texts, width]."""
        parts = self._texts.split(vectors)
        batch, device = self._batch, vectors.device
        translations = {name: parts[name] for name in STUDENT_TRANSLATIONS if name in parts}
        scores = to_device(batch.teacher_scores, device) if batch.teacher_scores.shape[1] else None
        return LossInputs(
            questions=parts[QUESTIONS].vectors,
            passages=parts[PASSAGES].vectors,
            right_keys=to_device(batch.right_keys, device),
            question_languages=to_device(batch.question_languages, device),
            passage_languages=to_device(batch.passage_languages, device),
            mined=self._mined(parts[NEGATIVES]) if NEGATIVES in parts else None,
            teacher_scores=scores,
            **translations,
            **teacher,
        )

    def _mined(self, negatives: Translation) -> HardNegatives:
        shape = (len(self._batch.right_keys), -1)
        keys = to_device(self._batch.negative_keys, negatives.vectors.device)
        return HardNegatives(negatives.vectors.unflatten(0, shape), keys.view(shape), negatives.there.view(shape))
