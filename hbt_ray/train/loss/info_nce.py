"""InfoNCE over the global batch, exact on any number of ranks.

For question i with its passage p_i, over all passages p_j of the global batch (2408.10536 eq. 1, with several positives
per question, and with the temperature that the paper's equation leaves out):

    loss_i = -log  exp(q_i·p_i / t) / Σ_j exp(q_i·p_j / t)        the sum leaves out j ≠ i that answer question i

Mined hard negatives of any row are candidates for every question, so the sum runs over them too. A passage answers
question i if the data says so of any item with this question, inside or outside the batch: as a negative it would be a
false one, and with r positives of one question in a batch the loss could not fall below ln r. The store has the keys of
every item's positives (`hbt_ray.data.prepare.relevant_passages`).

Each rank holds a slice of the questions and gathers all passages. The gather carries gradients: the backward pass sums
the gradients of a passage over the questions of all ranks, so the gradients of all ranks sum to those of one process
that holds the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_ray.train.loss.gather import first_row, gather
from hbt_ray.train.loss.inputs import HardNegatives
from hbt_ray.train.loss.tiles import PairKeys, tiled_info_nce, upcast


def info_nce(
    questions: Tensor,
    passages: Tensor,
    positive_keys: Tensor,
    temperature: float | Tensor,
    rank_sizes: Sequence[int],
    hard_negatives: HardNegatives | None = None,
    *,
    symmetric: bool = False,
    dimensions: Sequence[int] = (),
    tile: int = 2_048,
) -> Tensor:
    """This rank's share of the global mean loss; the shares of all ranks sum to it.

    Args:
        questions: [rows, width] of this rank, normalised.
        passages: [rows, width] of this rank, normalised; row i answers question i.
        positive_keys: int64 keys of the passages that answer each question, the row's own first, [rows, n] with n equal
            on all ranks; [rows] if each question has one positive.
        temperature: cosines are divided by it; a scalar tensor if it is learned.
        rank_sizes: rows of every rank, in rank order. They are known from the plan, so no message is needed.
        hard_negatives: mined negatives of this rank's rows; on all ranks or on none, with n equal on all ranks.
        symmetric: average with the loss of each passage among all questions.
        dimensions: prefixes of the vectors (Matryoshka), normalised again; the loss of each counts like the whole's.
        tile: rows and columns of the similarity matrix that are in memory at once.
    """
    positive_keys = positive_keys if positive_keys.dim() > 1 else positive_keys[:, None]
    # [rows] index of each question's own passage among the passages of all ranks.
    own_rows = torch.arange(len(questions), device=questions.device) + first_row(rank_sizes)
    # Gathers are collectives. The branches below depend on the configuration and the plan, so all ranks take the same.
    # Only passage → question needs all positives of other ranks' questions; question → passage needs passage keys.
    all_positive_keys = gather(positive_keys if symmetric else positive_keys[:, :1], rank_sizes)
    passage_keys = all_positive_keys[:, :1]
    candidates = gather(passages, rank_sizes)
    forward_keys = PairKeys(own_rows, positive_keys, passage_keys)
    all_questions = gather(questions, rank_sizes) if symmetric else None
    backward_keys = PairKeys(own_rows, positive_keys[:, :1], all_positive_keys)
    if hard_negatives is not None:
        negatives, negative_keys, mask = _gather_negatives(hard_negatives, rank_sizes)
        candidates = torch.cat([candidates, negatives])
        mask = torch.cat([torch.ones_like(passage_keys[:, 0], dtype=torch.bool), mask])  # [all rows · (1 + n)]
        candidate_keys = torch.cat([passage_keys, negative_keys[:, None]])
        forward_keys = PairKeys(own_rows, positive_keys, candidate_keys, mask)
    losses = []
    for width in (*dimensions, questions.shape[1]):
        loss = tiled_info_nce(_prefix(questions, width), _prefix(candidates, width), temperature, forward_keys, tile)
        if all_questions is not None:
            queries, targets = _prefix(passages, width), _prefix(all_questions, width)
            loss = (loss + tiled_info_nce(queries, targets, temperature, backward_keys, tile)) / 2
        losses.append(loss)
    # Divided by the global number of rows, so that shares of ranks with unequal slices sum to the global mean.
    return torch.stack(losses).sum() / (sum(rank_sizes) * len(losses))


def _gather_negatives(negatives: HardNegatives, rank_sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Hard negatives of all ranks: vectors [all rows · n, width], keys and mask [all rows · n]."""
    vectors = gather(negatives.vectors, rank_sizes).flatten(0, 1)
    # One message for keys and mask, as int64: gloo sends no bool.
    keys_and_mask = torch.stack([negatives.keys, negatives.mask.long()], dim=2)
    keys, mask = gather(keys_and_mask, rank_sizes).flatten(0, 1).unbind(1)
    return vectors, keys, mask.bool()


def _prefix(vectors: Tensor, width: int) -> Tensor:
    return vectors if width == vectors.shape[1] else F.normalize(upcast(vectors[:, :width]), dim=1)
