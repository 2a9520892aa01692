"""The objective as one would write it down: one process, one pass, the whole similarity matrix, and autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbt_ray.data.stream.local import LocalBatch
from hbt_ray.data.stream.tokens import Tokens
from hbt_ray.train.loss.config import LossConfig


def vectors(encoder: nn.Module, tokens: Tokens) -> Tensor:
    """[rows, width], text by text; zeros where there is none."""
    rows, end = [], 0
    for length in tokens.lengths.tolist():
        ids = torch.from_numpy(tokens.ids[end : end + length].copy()).long()[None]
        end += length
        rows.append(encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)}) if length else None)
    width = next(row["sentence_embedding"].shape[1] for row in rows if row is not None)
    return torch.stack(
        [torch.zeros(width, dtype=torch.float64) if row is None else row["sentence_embedding"][0] for row in rows]
    )


def loss(encoder: nn.Module, batch: LocalBatch, config: LossConfig, temperature: Tensor) -> Tensor:
    """The mean over the rows of InfoNCE, in every asked-for direction and width."""
    questions, passages = vectors(encoder, batch.questions), vectors(encoder, batch.passages)
    keys = torch.from_numpy(batch.passage_keys)
    candidates, candidate_keys = passages, keys
    if len(batch.negative_keys):
        there = torch.from_numpy(batch.negatives.lengths > 0)
        candidates = torch.cat([passages, vectors(encoder, batch.negatives)[there]])
        candidate_keys = torch.cat([keys, torch.from_numpy(batch.negative_keys)[there]])
    widths = (*config.dimensions, questions.shape[1])
    total = torch.zeros((), dtype=torch.float64)
    for width in widths:
        cut = [F.normalize(side[:, :width]) for side in (questions, passages, candidates)]
        forth = _cross_entropy(cut[0], cut[2], keys, candidate_keys, temperature)
        back = _cross_entropy(cut[1], cut[0], keys, keys, temperature)
        total = total + ((forth + back) / 2 if config.symmetric else forth)
    return total / len(widths)


def _cross_entropy(queries: Tensor, others: Tensor, keys: Tensor, other_keys: Tensor, temperature: Tensor) -> Tensor:
    shared = keys[:, None] == other_keys[None]
    shared.fill_diagonal_(False)
    scores = (queries @ others.T / temperature).masked_fill(shared, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(queries)))
