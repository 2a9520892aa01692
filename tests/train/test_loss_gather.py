"""Gathering: rows in rank order, gradients back to where they came from."""

from __future__ import annotations

import torch
from torch import Tensor

from hbt_ray.train.loss.gather import first_row, gather
from tests.train.processes import on_ranks

SIZES = [(3, 3, 3), (2, 4, 3), (0, 5, 4)]
KINDS = [torch.float64, torch.bfloat16]


def weights(rank: int, kind: torch.dtype) -> Tensor:
    """What a rank wants of every row: its gradient. In bf16, 256 + 1 + 1 is 256 if it is rounded after every rank."""
    expected = torch.arange(18).view(9, 2) * (rank + 1) % 11
    expected[4] = 256 if rank == 0 else 1
    return expected.to(kind)


def on_rank(rank: int) -> list[tuple[Tensor, ...]]:
    made = []
    for sizes in SIZES:
        for kind in KINDS:
            rows = torch.arange(18).view(9, 2).to(kind)
            twice = [rows.split(sizes)[rank].clone().requires_grad_() for _ in range(2)]
            first, second = (gather(own, sizes) for own in twice)
            # Autograd hands one and the same tensor to both as their gradient.
            ((first + second) * weights(rank, kind)).sum().backward()
            keys = gather(torch.arange(9).split(sizes)[rank], sizes)
            made.append((first.detach(), keys, torch.tensor(first_row(sizes)), *(own.grad for own in twice)))
    return made


def test_rows_come_in_rank_order_and_gradients_go_back_summed() -> None:
    ranks = on_ranks(3, on_rank)
    cases = [(sizes, kind) for sizes in SIZES for kind in KINDS]
    for number, (sizes, kind) in enumerate(cases):
        total = sum(weights(rank, torch.float64) for rank in range(3)).to(kind)
        for rank in range(3):
            rows, keys, start, *gradients = ranks[rank][number]
            assert torch.equal(rows, torch.arange(18).view(9, 2).to(kind))
            assert torch.equal(keys, torch.arange(9))
            assert start == sum(sizes[:rank])
            for gradient in gradients:
                assert gradient.dtype == kind
                assert torch.equal(gradient, total.split(sizes)[rank])


def test_one_rank_sends_nothing() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather(rows, (3,)) is rows
    assert first_row((3,)) == 0
