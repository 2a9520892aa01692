"""InfoNCE: the formula, the mask, and the same loss and gradients on any number of ranks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_ray.train.loss import info_nce
from tests.train.processes import on_ranks

NUM_ROWS, WIDTH, TEMPERATURE = 12, 7, 0.07


def example(kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Questions, passages and keys; several passages are shared, across the borders of the slices too."""
    generator = torch.Generator().manual_seed(5)
    questions, passages = (torch.randn(NUM_ROWS, WIDTH, dtype=kind, generator=generator) for _ in range(2))
    keys = torch.tensor([1, 2, 3, 1, 5, 6, 7, 2, 9, 10, 1, 12])
    return F.normalize(questions), F.normalize(passages), keys


def by_hand(questions: Tensor, passages: Tensor, keys: Tensor) -> float:
    """The formula, in plain Python."""
    total = 0.0
    for i in range(len(questions)):
        scores = [float(questions[i] @ passages[j]) / TEMPERATURE for j in range(len(passages))]
        kept = [scores[j] for j in range(len(passages)) if j == i or keys[j] != keys[i]]
        total += math.log(sum(map(math.exp, kept))) - scores[i]
    return total / len(questions)


def whole(kind: torch.dtype) -> tuple[float, Tensor, Tensor]:
    """Loss and gradients of one process."""
    questions, passages, keys = example(kind)
    questions.requires_grad_()
    passages.requires_grad_()
    loss = info_nce(questions, passages, keys, TEMPERATURE, (NUM_ROWS,))
    loss.backward()
    assert questions.grad is not None
    assert passages.grad is not None
    return loss.item(), questions.grad, passages.grad


def on_rank(rank: int, kind: torch.dtype, sizes: tuple[int, ...]) -> tuple[float, Tensor, Tensor]:
    questions, passages, keys = (column.split(sizes)[rank].clone() for column in example(kind))
    questions.requires_grad_()
    passages.requires_grad_()
    part = info_nce(questions, passages, keys, TEMPERATURE, sizes)
    part.backward()
    assert questions.grad is not None
    assert passages.grad is not None
    return part.item(), questions.grad, passages.grad


def test_the_loss_is_the_formula_with_shared_passages_left_out() -> None:
    loss, *_ = whole(torch.float64)
    assert loss == pytest.approx(by_hand(*example(torch.float64)), abs=1e-12)
    questions, passages, _ = example(torch.float64)
    distinct = torch.arange(NUM_ROWS)
    unmasked = info_nce(questions, passages, distinct, TEMPERATURE, (NUM_ROWS,)).item()
    assert unmasked == pytest.approx(by_hand(questions, passages, distinct), abs=1e-12)
    assert unmasked > loss


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4), (5, 7), (3, 3, 3, 3)])
def test_ranks_together_are_one_process(sizes: tuple[int, ...], kind: torch.dtype, tolerance: float) -> None:
    loss, questions, passages = whole(kind)
    ranks = on_ranks(len(sizes), on_rank, kind, sizes)
    assert sum(part for part, _, _ in ranks) == pytest.approx(loss, abs=tolerance)
    assert (torch.cat([grad for _, grad, _ in ranks]) - questions).abs().max() < tolerance
    assert (torch.cat([grad for _, _, grad in ranks]) - passages).abs().max() < tolerance


def test_bf16_vectors_have_fp32_logits() -> None:
    questions, passages, keys = example(torch.float32)
    halves = info_nce(questions.bfloat16(), passages.bfloat16(), keys, TEMPERATURE, (NUM_ROWS,))
    assert halves.dtype == torch.float32
    rounded = info_nce(questions.bfloat16().float(), passages.bfloat16().float(), keys, TEMPERATURE, (NUM_ROWS,))
    assert halves == rounded
