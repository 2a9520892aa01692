"""InfoNCE: the formula, the mask, and the same loss and gradients on any number of ranks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_ray.train.loss.encoded import Mined
from hbt_ray.train.loss.info_nce import info_nce
from tests.train.processes import on_ranks

NUM_ROWS, WIDTH, PER_ROW, TEMPERATURE = 12, 7, 3, 0.07


def example(kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Questions, passages and keys; several passages are shared, across the borders of the slices too."""
    generator = torch.Generator().manual_seed(5)
    questions, passages = (torch.randn(NUM_ROWS, WIDTH, dtype=kind, generator=generator) for _ in range(2))
    keys = torch.tensor([1, 2, 3, 1, 5, 6, 7, 2, 9, 10, 1, 12])
    return F.normalize(questions), F.normalize(passages), keys


def example_mined(kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Passages, keys (some of rows in the batch) and presence; the last three rows have none: all of a rank's, of 4."""
    generator = torch.Generator().manual_seed(6)
    passages = F.normalize(torch.randn(NUM_ROWS, PER_ROW, WIDTH, dtype=kind, generator=generator), dim=2)
    keys = torch.randint(0, 20, (NUM_ROWS, PER_ROW), generator=generator)
    there = torch.rand(NUM_ROWS, PER_ROW, generator=generator) < 0.7
    there[-3:] = False
    return passages, keys, there


def by_hand(
    questions: Tensor, passages: Tensor, keys: Tensor, mined: Tensor, mined_keys: Tensor, there: Tensor
) -> float:
    """The formula, in plain Python; with no mined negatives that are there, that of the batch alone."""
    total = 0.0
    for i in range(len(questions)):
        scores = [float(questions[i] @ passages[j]) / TEMPERATURE for j in range(len(passages))]
        kept = [scores[j] for j in range(len(passages)) if j == i or keys[j] != keys[i]]
        kept += [
            float(questions[i] @ mined[j, n]) / TEMPERATURE
            for j in range(len(passages))
            for n in range(PER_ROW)
            if there[j, n] and mined_keys[j, n] != keys[i]
        ]
        total += math.log(sum(map(math.exp, kept))) - scores[i]
    return total / len(questions)


def part_and_gradients(kind: torch.dtype, rank: int, sizes: tuple[int, ...], with_mined: bool) -> list[Tensor]:
    """A rank's part of the loss, and the gradients of its questions, passages and mined negatives."""
    columns = [column.split(sizes)[rank].clone() for column in (*example(kind), *example_mined(kind))]
    questions, passages, keys, mined_passages, mined_keys, there = columns
    leaves = [questions, passages, *([mined_passages] if with_mined else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    mined = Mined(mined_passages, mined_keys, there) if with_mined else None
    part = info_nce(questions, passages, keys, TEMPERATURE, sizes, mined)
    part.backward()
    return [part.detach().reshape(1), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def on_rank(rank: int, kind: torch.dtype, sizes: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Without and with mined negatives."""
    return part_and_gradients(kind, rank, sizes, False), part_and_gradients(kind, rank, sizes, True)


def test_the_loss_is_the_formula_with_shared_passages_left_out() -> None:
    questions, passages, keys = example(torch.float64)
    mined, mined_keys, there = example_mined(torch.float64)
    sides = (questions, passages, keys)
    loss = info_nce(*sides, TEMPERATURE, (NUM_ROWS,)).item()
    assert loss == pytest.approx(by_hand(*sides, mined, mined_keys, torch.zeros_like(there)), abs=1e-12)
    distinct = torch.arange(NUM_ROWS)
    unmasked = info_nce(questions, passages, distinct, TEMPERATURE, (NUM_ROWS,)).item()
    assert unmasked > loss
    harder = info_nce(*sides, TEMPERATURE, (NUM_ROWS,), Mined(mined, mined_keys, there)).item()
    assert harder == pytest.approx(by_hand(*sides, mined, mined_keys, there), abs=1e-12)
    assert harder > loss


def test_two_questions_with_one_negative_on_paper() -> None:
    """Scores 1 and 0 with the passages; a mined one of row 0 scores 0.6 and 0.8; row 1 has none, but sees that one."""
    questions = passages = torch.eye(2, dtype=torch.float64)
    mined = torch.tensor([[[0.6, 0.8]], [[0.0, 1.0]]], dtype=torch.float64)
    there = torch.tensor([[True], [False]])
    one, zero, first, second = (math.exp(score / 0.5) for score in (1.0, 0.0, 0.6, 0.8))
    keys, mined_keys = torch.tensor([1, 2]), torch.tensor([[3], [4]])
    loss = info_nce(questions, passages, keys, 0.5, (2,), Mined(mined, mined_keys, there)).item()
    expected = [math.log((one + zero + other) / one) for other in (first, second)]
    assert loss == pytest.approx(sum(expected) / 2, abs=1e-12)
    shared = info_nce(questions, passages, keys, 0.5, (2,), Mined(mined, torch.tensor([[2], [4]]), there)).item()
    assert shared == pytest.approx((expected[0] + math.log((one + zero) / one)) / 2, abs=1e-12)


def test_negatives_that_are_not_there_change_nothing() -> None:
    loss, questions, passages = part_and_gradients(torch.float64, 0, (NUM_ROWS,), False)
    sides = [side.clone().requires_grad_() for side in example(torch.float64)[:2]]
    none = Mined(torch.zeros(NUM_ROWS, 2, WIDTH, dtype=torch.float64), torch.zeros(NUM_ROWS, 2).long(),
                 torch.zeros(NUM_ROWS, 2).bool())  # fmt: skip
    same = info_nce(*sides, example(torch.float64)[2], TEMPERATURE, (NUM_ROWS,), none)
    same.backward()
    assert torch.equal(same.detach().reshape(1), loss)
    assert sides[0].grad is not None
    assert sides[1].grad is not None
    assert (sides[0].grad - questions).abs().max() < 1e-15
    assert (sides[1].grad - passages).abs().max() < 1e-15


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4), (5, 7), (3, 3, 3, 3)])
def test_ranks_together_are_one_process(sizes: tuple[int, ...], kind: torch.dtype, tolerance: float) -> None:
    ranks = on_ranks(len(sizes), on_rank, kind, sizes)
    for with_mined in (False, True):
        loss, *gradients = part_and_gradients(kind, 0, (NUM_ROWS,), with_mined)
        parts, *columns = zip(*(rank[with_mined] for rank in ranks), strict=True)
        assert sum(parts).item() == pytest.approx(loss.item(), abs=tolerance)
        for mine, theirs in zip(gradients, columns, strict=True):
            assert (torch.cat(theirs) - mine).abs().max() < tolerance


def test_bf16_vectors_have_fp32_logits() -> None:
    questions, passages, keys = example(torch.float32)
    halves = info_nce(questions.bfloat16(), passages.bfloat16(), keys, TEMPERATURE, (NUM_ROWS,))
    assert halves.dtype == torch.float32
    rounded = info_nce(questions.bfloat16().float(), passages.bfloat16().float(), keys, TEMPERATURE, (NUM_ROWS,))
    assert halves == rounded
