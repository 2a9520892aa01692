"""The objective as one would write it down: one process, one pass, the whole similarity matrix, and autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.train.loss.inputs import HardNegatives, LossInputs, Translation
from hbt_ray.train.loss.objective import LossConfig
from hbt_ray.train.step.encoder_inputs import STUDENT_TRANSLATIONS, TEACHER_TRANSLATIONS


def vectors(encoder: nn.Module, tokens: Tokens) -> Tensor:
    """[rows, width], text by text; zeros where there is none."""
    rows = []
    for start, length in zip(tokens.starts.tolist(), tokens.lengths.tolist(), strict=True):
        ids = torch.from_numpy(tokens.ids[start : start + length].copy()).long()[None]
        rows.append(encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)}) if length else None)
    width = next(row["sentence_embedding"].shape[1] for row in rows if row is not None)
    return torch.stack(
        [torch.zeros(width, dtype=torch.float64) if row is None else row["sentence_embedding"][0] for row in rows]
    )


def loss(
    encoder: nn.Module, batch: RankBatch, config: LossConfig, temperature: Tensor, teacher: nn.Module | None = None
) -> Tensor:
    """The mean over the rows of InfoNCE, in every asked-for direction and width, and the terms."""
    questions, passages = (vectors(encoder, batch.texts[name]) for name in ("questions", "passages"))
    sides = questions, passages, torch.from_numpy(batch.positive_keys)
    if not len(batch.negative_keys):
        return loss_of_vectors(*sides, config, temperature)
    there, keys = torch.from_numpy(batch.texts["negatives"].lengths > 0), torch.from_numpy(batch.negative_keys)
    negatives = vectors(encoder, batch.texts["negatives"])
    total = loss_of_vectors(*sides, config, temperature, negatives[there], keys[there])
    if not config.terms or teacher is None:
        return total
    shape = (len(sides[0]), -1)
    seen = LossInputs(
        *sides,
        torch.from_numpy(batch.question_languages),
        torch.from_numpy(batch.passage_languages),
        HardNegatives(negatives.unflatten(0, shape), keys.view(shape), there.view(shape)),
        **{
            name: Translation(
                vectors(teacher if name.startswith("teacher") else encoder, batch.texts[name]),
                torch.from_numpy(batch.texts[name].lengths > 0),
            )
            for name in (*STUDENT_TRANSLATIONS, *TEACHER_TRANSLATIONS)
        },
        teacher_scores=torch.from_numpy(batch.teacher_scores),
    )
    for term in config.terms.values():  # Each is held to a calculation by hand in its own tests.
        total = total + term.weight * term.rank_loss(seen, (len(sides[0]),), temperature)
    return total


def loss_of_vectors(
    questions: Tensor,
    passages: Tensor,
    positive_keys: Tensor,
    config: LossConfig,
    temperature: Tensor | float,
    negatives: Tensor | None = None,
    negative_keys: Tensor | None = None,
) -> Tensor:
    """The same; of the mined negatives, [some, width], those that are there."""
    keys = positive_keys[:, :1]
    candidates, candidate_keys = passages, keys
    if negatives is not None and negative_keys is not None:
        candidates, candidate_keys = torch.cat([passages, negatives]), torch.cat([keys, negative_keys[:, None]])
    widths = (*config.dimensions, questions.shape[1])
    total = questions.new_zeros(())
    for width in widths:
        whole = width == questions.shape[1]
        cut = [s if whole else F.normalize(s[:, :width]) for s in (questions, passages, candidates)]
        forth = _cross_entropy(cut[0], cut[2], positive_keys, candidate_keys, temperature)
        back = _cross_entropy(cut[1], cut[0], keys, positive_keys, temperature)
        total = total + ((forth + back) / 2 if config.symmetric else forth)
    return total / len(widths)


def _cross_entropy(
    queries: Tensor, others: Tensor, keys: Tensor, other_keys: Tensor, temperature: Tensor | float
) -> Tensor:
    shared = (keys[:, None, :, None] == other_keys[None, :, None, :]).any(-1).any(-1)
    shared.fill_diagonal_(False)
    scores = (queries @ others.T / temperature).masked_fill(shared, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(queries)))
