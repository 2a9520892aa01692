"""InfoNCE: the formula, the mask, both directions and prefixes, by hand. Ranks and tiles are in the grid."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_ray.train.loss.info_nce import info_nce
from hbt_ray.train.loss.inputs import HardNegatives
from hbt_ray.train.loss.tiles import share_key

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


def test_the_loss_is_the_formula_with_shared_passages_left_out() -> None:
    questions, passages, keys = example(torch.float64)
    mined, mined_keys, there = example_mined(torch.float64)
    sides = (questions, passages, keys)
    loss = info_nce(*sides, TEMPERATURE, (NUM_ROWS,)).item()
    assert loss == pytest.approx(by_hand(*sides, mined, mined_keys, torch.zeros_like(there)), abs=1e-12)
    distinct = torch.arange(NUM_ROWS)
    unmasked = info_nce(questions, passages, distinct, TEMPERATURE, (NUM_ROWS,)).item()
    assert unmasked > loss
    harder = info_nce(*sides, TEMPERATURE, (NUM_ROWS,), HardNegatives(mined, mined_keys, there)).item()
    assert harder == pytest.approx(by_hand(*sides, mined, mined_keys, there), abs=1e-12)
    assert harder > loss


def test_right_passages_of_one_question_are_no_negatives_of_each_other() -> None:
    """Eight right passages of each of two questions; all vectors of a question are equal, so nothing is left to learn.

    If rows were known by their own passages alone, the loss of these perfect vectors would be ln 8.
    """
    vectors = torch.eye(2, dtype=torch.float64).repeat_interleave(8, 0)
    own = torch.arange(16)
    positive_keys = torch.stack([own, *((own // 8 * 8 + (own + shift) % 8) for shift in range(1, 8))], dim=1)
    for symmetric in (False, True):
        losses = [
            info_nce(vectors, vectors, keys, 0.02, (16,), symmetric=symmetric).item() for keys in (own, positive_keys)
        ]
        assert losses[0] == pytest.approx(math.log(8))
        assert losses[1] == pytest.approx(0, abs=1e-12)


def test_a_passage_that_answers_is_none_of_the_negatives_whoever_brings_it() -> None:
    """Passage 2 answers question 1 too, by a row that is not in the batch; and so does a negative mined for row 2."""
    questions = torch.eye(2, dtype=torch.float64)
    passages = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    mined = HardNegatives(
        torch.tensor([[[0.8, 0.6]], [[0.0, -1.0]]], dtype=torch.float64), torch.tensor([[4], [3]]), torch.ones(2, 1) > 0
    )
    keys = torch.tensor([[1, 2, 3], [2, 2, 2]])
    one, first, own, second, third = (math.exp(score / 0.5) for score in (1.0, 0.8, 0.8, 0.6, -1.0))
    loss = info_nce(questions, passages, keys, 0.5, (2,), mined).item()
    expected = [math.log((one + first) / one), math.log((1 + own + second + third) / own)]
    assert loss == pytest.approx(sum(expected) / 2, abs=1e-12)
    # Back: passage 1 has question 2 as a negative, passage 2 answers both questions.
    both = info_nce(questions, passages, keys, 0.5, (2,), symmetric=True).item()
    forth = math.log((1 + own) / own)
    assert both == pytest.approx((forth + math.log((one + 1) / one)) / 4, abs=1e-12)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_shared_keys_are_found_whatever_their_number(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    several = torch.randint(-5, 20, (31, width), generator=generator)
    one = torch.randint(-5, 20, (47, 1), generator=generator)
    expected = torch.tensor([[bool(set(a) & set(b)) for b in one.tolist()] for a in several.tolist()])
    assert torch.equal(share_key(several, one), expected)
    assert torch.equal(share_key(one, several), expected.T)
    assert expected.any()
    assert not expected.all()


def test_two_questions_with_one_negative_on_paper() -> None:
    """Scores 1 and 0 with the passages; a mined one of row 0 scores 0.6 and 0.8; row 1 has none, but sees that one."""
    questions = passages = torch.eye(2, dtype=torch.float64)
    mined = torch.tensor([[[0.6, 0.8]], [[0.0, 1.0]]], dtype=torch.float64)
    there = torch.tensor([[True], [False]])
    one, zero, first, second = (math.exp(score / 0.5) for score in (1.0, 0.0, 0.6, 0.8))
    keys, mined_keys = torch.tensor([1, 2]), torch.tensor([[3], [4]])
    loss = info_nce(questions, passages, keys, 0.5, (2,), HardNegatives(mined, mined_keys, there)).item()
    expected = [math.log((one + zero + other) / one) for other in (first, second)]
    assert loss == pytest.approx(sum(expected) / 2, abs=1e-12)
    shared = info_nce(
        questions, passages, keys, 0.5, (2,), HardNegatives(mined, torch.tensor([[2], [4]]), there)
    ).item()
    assert shared == pytest.approx((expected[0] + math.log((one + zero) / one)) / 2, abs=1e-12)


def test_both_directions_on_paper() -> None:
    """Scores: question 1 with the passages 1 and 0.6, question 2 0 and 0.8; the passages see the columns of that."""
    questions = torch.eye(2, dtype=torch.float64)
    passages = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    loss = info_nce(questions, passages, torch.tensor([1, 2]), 0.5, (2,), symmetric=True).item()
    (a, b), (c, d) = [[math.exp(score / 0.5) for score in row] for row in ((1.0, 0.6), (0.0, 0.8))]
    forth = (math.log((a + b) / a) + math.log((c + d) / d)) / 2
    back = (math.log((a + c) / a) + math.log((b + d) / d)) / 2
    assert loss == pytest.approx((forth + back) / 2, abs=1e-12)


def test_prefixes_on_paper() -> None:
    """In one dimension the vectors are 1, or -1, whatever their length was: scores 1 and -1, -1 and 1."""
    questions = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    whole = info_nce(questions, questions, torch.tensor([1, 2]), 0.5, (2,)).item()
    assert whole == pytest.approx(math.log((math.exp(2) + 1) / math.exp(2)), abs=1e-12)
    prefix = math.log((math.exp(2) + math.exp(-2)) / math.exp(2))
    both = info_nce(questions, questions, torch.tensor([1, 2]), 0.5, (2,), dimensions=(1,)).item()
    assert both == pytest.approx((whole + prefix) / 2, abs=1e-12)


def test_negatives_that_are_not_there_change_nothing() -> None:
    made = []
    for mined in (None, HardNegatives(torch.zeros(NUM_ROWS, 2, WIDTH).double(), torch.zeros(NUM_ROWS, 2).long(),
                              torch.zeros(NUM_ROWS, 2).bool())):  # fmt: skip
        questions, passages, keys = example(torch.float64)
        loss = info_nce(questions.requires_grad_(), passages.requires_grad_(), keys, TEMPERATURE, (NUM_ROWS,), mined)
        loss.backward()
        made.append((loss.detach(), questions.grad, passages.grad))
    assert all((one - other).abs().max() < 1e-15 for one, other in zip(*made, strict=True))
