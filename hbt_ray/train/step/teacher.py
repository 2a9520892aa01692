"""The teacher: a frozen encoder that reads the English versions of a batch's texts, for distillation.

It has a tokenizer, prompts and lengths of its own; the stream brings its tokens as views of the batch. Its vectors and
the student's are compared by angle, so both must have one width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.loss.inputs import Translation
from hbt_ray.train.step.encoder_inputs import TEACHER_TRANSLATIONS, SectionTexts
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder, autocast
from hbt_ray.train.step.optimizer import OptimiserConfig


class Teacher:
    """Made once on every rank, and never trained."""

    def __init__(self, encoder: Any, config: OptimiserConfig, device: torch.device) -> None:
        self._device = device
        self._tower = GradCacheEncoder(
            encoder.to(device).eval().requires_grad_(False),
            padding_id=encoder.tokenizer.pad_token_id,
            budget=EncodeLimits(config.chunk_rows, activation_tokens=0),
            world_size=1,
            device=device,
            autocast=partial(autocast, config.precision, device),
        )

    def versions(self, batch: RankBatch, width: int) -> dict[str, Translation]:
        """By the names of `LossInputs`, the vectors [rows, width] of the texts that the batch has for the teacher."""
        texts = SectionTexts(batch, TEACHER_TRANSLATIONS)
        if len(texts.tokens):
            return texts.split(self._tower.encode(texts.tokens, 0).vectors)
        return texts.split(torch.empty(0, width, device=self._device))  # No row of this rank has a text to teach.
