"""The sides of a local batch: which texts go through the encoder, and whose vectors they are afterwards.

All texts of a batch go through together, so that chunks can be cut by length alone, a rank whose rows have no negative
at all takes part in every collective like the others, and no empty text is ever encoded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from hbt_ray.data.stream.loader import RankBatch
from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.model.microbatch import to_device
from hbt_ray.train.loss.inputs import HardNegatives, LossInputs, Translation

STUDENT_VIEWS = ("question_versions", "passage_versions")
TEACHER_VIEWS = ("teacher_questions", "teacher_passages")


class EncoderInputs:
    """The student's texts of a batch: questions, passages, mined negatives, other versions."""

    def __init__(self, batch: RankBatch) -> None:
        self._batch = batch
        self._tokens = {"questions": batch.questions, "passages": batch.passages}
        if len(batch.negative_keys):
            self._tokens["negatives"] = batch.negatives
        self._tokens |= {name: batch.views[name] for name in STUDENT_VIEWS if name in batch.views}
        self.tokens = joined(self._tokens)
        """Those that are there, end to end."""

    def encoded(self, vectors: Tensor, teacher: Mapping[str, Translation]) -> LossInputs:
        """What the objective sees, from the vectors of `tokens`, [texts, width]."""
        parts = apart(vectors, self._tokens)
        batch, device = self._batch, vectors.device
        versions = {name: parts[name] for name in STUDENT_VIEWS if name in parts}
        scores = to_device(batch.teacher_scores, device) if batch.teacher_scores.shape[1] else None
        return LossInputs(
            questions=parts["questions"].vectors,
            passages=parts["passages"].vectors,
            right_keys=to_device(batch.right_keys, device),
            question_languages=to_device(batch.question_languages, device),
            passage_languages=to_device(batch.passage_languages, device),
            mined=self._mined(parts["negatives"]) if "negatives" in parts else None,
            teacher_scores=scores,
            **versions,
            **teacher,
        )

    def _mined(self, negatives: Translation) -> HardNegatives:
        shape = (len(self._batch.right_keys), -1)
        keys = to_device(self._batch.negative_keys, negatives.vectors.device)
        return HardNegatives(negatives.vectors.unflatten(0, shape), keys.view(shape), negatives.there.view(shape))


def joined(sides: Mapping[str, Tokens]) -> Tokens:
    """The texts of all sides that are there, end to end."""
    lengths = [tokens.lengths[tokens.lengths > 0] for tokens in sides.values()]
    return Tokens(np.concatenate([tokens.ids for tokens in sides.values()]), np.concatenate(lengths))


def apart(vectors: Tensor, sides: Mapping[str, Tokens]) -> dict[str, Translation]:
    """Of every side its vectors, [rows, width], from those of `joined(sides)`; zeros where there is no text."""
    present = {name: tokens.lengths > 0 for name, tokens in sides.items()}
    counts = [int(there.sum()) for there in present.values()]
    made = {}
    for (name, there), part in zip(present.items(), vectors.split(counts), strict=True):
        places = to_device(np.flatnonzero(there), vectors.device)
        rows = part if there.all() else part.new_zeros(len(there), part.shape[1]).index_copy(0, places, part)
        made[name] = Translation(rows, to_device(there, vectors.device))
    return made
