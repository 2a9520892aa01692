"""InfoNCE over the global batch, exact on any number of ranks.

For question i with its passage p_i, over all passages p_j of the global batch (2408.10536 eq. 1, with the in-batch
positives of its text, and a temperature, which the paper does not print):

    loss_i = -log  exp(q_i·p_i / t) / Σ_j exp(q_i·p_j / t)        the sum leaves out j ≠ i that answer question i

Mined negatives of any row are candidates for every question, so j runs over them as well, and they widen the sum.
A passage answers question i if the data says so of any item with this question, whether or not that item is in the
batch: as a negative it would be a false one, and with r right passages of one question in a batch the loss could not
fall below ln r. The store knows the right passages of every item by their keys
(`hbt_ray.data.prepare.relevant_passages`).
Each rank holds a slice of the questions and sees all passages. Gathering carries gradients: the backward pass sums what
every rank's questions asked of a passage, so the gradients of all ranks sum to that of one process on the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_ray.train.loss.gather import gather, own_start
from hbt_ray.train.loss.inputs import HardNegatives
from hbt_ray.train.loss.precision import wide
from hbt_ray.train.loss.tiles import Pairing, tiled_info_nce


def info_nce(
    questions: Tensor,
    passages: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    sizes: Sequence[int],
    mined: HardNegatives | None = None,
    *,
    symmetric: bool = False,
    dimensions: Sequence[int] = (),
    tile: int = 2_048,
) -> Tensor:
    """This rank's part of the global mean loss; the parts of all ranks sum to it.

    Args:
        questions: [rows, width] of this rank, normalised.
        passages: [rows, width] of this rank, row by row the questions' answers.
        keys: int64 keys of the passages that answer each question, its own one first, [rows, n] with an n that is equal
            on all ranks; [rows] if each has its own one alone.
        sizes: rows of every rank, in rank order; known from the plan, so nothing is sent to learn them.
        mined: negatives of this rank's rows; on every rank or on none, and of equal n on all.
        symmetric: the mean of this and of the loss of each passage among all questions, without those it answers.
        dimensions: prefixes of the vectors, normalised anew, whose loss counts as much as that of the whole.
        tile: rows and columns of the similarity matrix that are in memory at once.
    """
    right_keys = keys if keys.dim() > 1 else keys[:, None]
    places = torch.arange(len(questions), device=questions.device) + own_start(sizes)
    # Only the way back asks what answers the questions of other ranks.
    all_right_keys = gather(right_keys if symmetric else right_keys[:, :1], sizes)
    all_keys = all_right_keys[:, :1]
    candidates, pairing = gather(passages, sizes), Pairing(places, right_keys, all_keys)
    others, back = gather(questions, sizes) if symmetric else None, Pairing(places, right_keys[:, :1], all_right_keys)
    if mined is not None:
        negatives, mined_keys, there = _gather_mined(mined, sizes)
        candidates = torch.cat([candidates, negatives])
        there = torch.cat([torch.ones_like(all_keys[:, 0], dtype=torch.bool), there])
        pairing = Pairing(places, right_keys, torch.cat([all_keys, mined_keys[:, None]]), there)
    losses = []
    for width in (*dimensions, questions.shape[1]):
        loss = tiled_info_nce(_prefix(questions, width), _prefix(candidates, width), temperature, pairing, tile)
        if others is not None:
            asked = tiled_info_nce(_prefix(passages, width), _prefix(others, width), temperature, back, tile)
            loss = (loss + asked) / 2
        losses.append(loss)
    return torch.stack(losses).sum() / (sum(sizes) * len(losses))


def _gather_mined(mined: HardNegatives, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The mined negatives of all ranks, [rows · n, width], their keys, and which of them are there, [rows · n]."""
    others = gather(mined.passages, sizes).flatten(0, 1)
    # One message for both; gloo sends no bool.
    keys, there = gather(torch.stack([mined.keys, mined.there.long()], dim=2), sizes).flatten(0, 1).unbind(1)
    return others, keys, there.bool()


def _prefix(vectors: Tensor, width: int) -> Tensor:
    return vectors if width == vectors.shape[1] else F.normalize(wide(vectors[:, :width]), dim=1)
