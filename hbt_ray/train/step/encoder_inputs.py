"""Inputs of student and teacher: the texts of a batch to encode, and the loss inputs that their vectors fill.

All texts of a batch go through the encoder together. So micro-batches are cut by length alone, and a rank whose rows
have no negatives takes part in every collective like the others. Missing texts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbt_ray.data.stream.rank_batch import NEGATIVES, PASSAGES, QUESTIONS, RankBatch
from hbt_ray.model.microbatch import to_device
from hbt_ray.train.loss.inputs import HardNegatives, LossInputs, Translation
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder, autocast
from hbt_ray.train.step.optimizer import OptimiserConfig

STUDENT_TRANSLATIONS = ("question_translations", "passage_translations")
TEACHER_TRANSLATIONS = ("teacher_questions", "teacher_passages")
"""Sections of auxiliary texts in `RankBatch`, and fields of `LossInputs`."""


class SectionTexts:
    """The texts of some sections of a batch, without missing ones."""

    def __init__(self, batch: RankBatch, names: Sequence[str]) -> None:
        self._sections = batch.texts.select(names)
        self._present = self._sections.present
        self.tokens = self._sections.tokens[np.flatnonzero(self._present)]
        """The existing texts of all sections, end to end."""

    def split(self, vectors: Tensor) -> dict[str, Translation]:
        """Section → its vectors, [rows, width], zeros for missing texts."""
        rows, device = vectors, vectors.device
        if not self._present.all():
            # [texts, width] → [rows of all sections, width]; missing rows are constant zeros without a gradient.
            places = to_device(np.flatnonzero(self._present), device)
            rows = vectors.new_zeros(len(self._present), vectors.shape[1]).index_copy(0, places, vectors)
        sizes = list(self._sections.sizes.values())
        parts = zip(self._sections.sizes, rows.split(sizes), to_device(self._present, device).split(sizes), strict=True)
        return {name: Translation(part, mask) for name, part, mask in parts}


class EncoderInputs:
    """Texts of a batch for the student: questions, passages, hard negatives, translations."""

    def __init__(self, batch: RankBatch) -> None:
        self._batch = batch
        negatives = (NEGATIVES,) if len(batch.negative_keys) else ()
        self._texts = SectionTexts(batch, (QUESTIONS, PASSAGES, *negatives, *STUDENT_TRANSLATIONS))
        self.tokens = self._texts.tokens
        """All existing texts, end to end."""

    def loss_inputs(self, vectors: Tensor, teacher: Mapping[str, Translation]) -> LossInputs:
        """Inputs of the loss.

        Args:
            vectors: [texts, width], those of `tokens`.
            teacher: what `Teacher.encode` returned for the batch; empty without a teacher.
        """
        sections = self._texts.split(vectors)
        batch, device = self._batch, vectors.device
        return LossInputs(
            questions=sections[QUESTIONS].vectors,
            passages=sections[PASSAGES].vectors,
            positive_keys=to_device(batch.positive_keys, device),
            question_languages=to_device(batch.question_languages, device),
            passage_languages=to_device(batch.passage_languages, device),
            hard_negatives=self._hard_negatives(sections[NEGATIVES]) if NEGATIVES in sections else None,
            teacher_scores=to_device(batch.teacher_scores, device) if batch.teacher_scores.shape[1] else None,
            **{name: sections[name] for name in STUDENT_TRANSLATIONS if name in sections},
            **teacher,
        )

    def _hard_negatives(self, section: Translation) -> HardNegatives:
        shape = (len(self._batch.positive_keys), -1)  # [rows · n] → [rows, n]
        keys = to_device(self._batch.negative_keys, section.vectors.device)
        return HardNegatives(section.vectors.unflatten(0, shape), keys.view(shape), section.mask.view(shape))


class Teacher:
    """A frozen encoder of the texts in its own language, for distillation.

    It has its own tokenizer, prompts and lengths; the stream delivers its tokens as auxiliary texts of the batch. Its
    vectors are compared with the student's by angle, so both have one width.
    """

    def __init__(self, encoder: Any, config: OptimiserConfig, device: torch.device) -> None:
        self._device = device
        self._encoder = GradCacheEncoder(
            encoder.to(device).eval().requires_grad_(False),
            padding_id=encoder.tokenizer.pad_token_id,
            limits=EncodeLimits(config.chunk_rows, activation_tokens=0),
            world_size=1,  # A frozen encoder has no gradients to all-reduce.
            device=device,
            autocast=partial(autocast, config.precision, device),
        )

    def encode(self, batch: RankBatch, width: int) -> dict[str, Translation]:
        """Field of `LossInputs` → the teacher's vectors, [rows, width], for the teacher's texts in the batch."""
        texts = SectionTexts(batch, TEACHER_TRANSLATIONS)
        if len(texts.tokens):
            return texts.split(self._encoder.encode(texts.tokens, 0).vectors)  # Any seed: eval mode has no dropout.
        return texts.split(torch.empty(0, width, device=self._device))  # No text of this rank.
