"""Tiles: gradients by differences, memory, work and precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from hbt_ray.train.loss.info_nce import info_nce
from hbt_ray.train.loss.inputs import HardNegatives
from hbt_ray.train.loss.tiles import PairKeys, tiled_info_nce

PRODUCTS = ("aten::mm", "aten::addmm_")


def sides(num_queries: int, num_candidates: int, width: int = 8, kind: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((num_queries, width), (num_candidates, width))
    return [
        F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64)).to(kind).requires_grad_()
        for shape in shapes
    ]


def distinct(num_queries: int, num_candidates: int) -> PairKeys:
    rows, columns = torch.arange(num_queries), torch.arange(num_candidates)
    return PairKeys(rows, rows[:, None], columns[:, None])


class Watch(TorchDispatchMode):
    """The largest tensor that any operation makes, how often each is called, and the precision of the products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.calls, self.precisions = 0, Counter[str](), set[tuple[str, torch.dtype]]()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        made = function(*arguments, **(options or {}))
        name = function._schema.name
        self.calls[name] += 1
        if name in PRODUCTS:
            self.precisions.add((torch.backends.cuda.matmul.fp32_precision, made.dtype))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made

    @property
    def products(self) -> int:
        return sum(self.calls[name] for name in PRODUCTS)


def watched(work: Any) -> Watch:
    """`work` and its backward pass."""
    with Watch() as watch:
        work().backward()
    return watch


@pytest.mark.parametrize("tile", [2, 3, 99])
def test_gradients_are_those_of_differences(tile: int) -> None:
    """Positives at any place; candidates that are absent; queries that share a key; one with nothing to choose from."""
    pairing = PairKeys(
        torch.tensor([4, 0, 3, 6, 2]),
        torch.tensor([[1, 8], [2, 2], [3, 1], [1, 1], [5, 9]]),
        torch.tensor([2, 9, 5, 3, 1, 1, 1, 8])[:, None],
        torch.tensor([True, False, True, True, True, True, True, True]),
    )
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (*sides(5, 8), temperature)
    assert gradcheck(lambda *given: tiled_info_nce(*given, pairing, tile), inputs)


@pytest.mark.parametrize("tile", [2, 99])
def test_a_query_with_its_own_positive_alone_has_no_loss_and_no_gradient(tile: int) -> None:
    queries, candidates = sides(4, 6)
    there = torch.tensor([True, True, True, True, False, False])
    same = PairKeys(torch.arange(4), torch.tensor([[0, 9]] * 4), torch.tensor([0, 0, 0, 0, 9, 8])[:, None], there)
    loss = tiled_info_nce(queries, candidates, 0.05, same, tile)
    loss.backward()
    assert loss == 0
    assert not queries.grad.any()
    assert not candidates.grad.any()


def test_no_tensor_grows_with_the_square_of_the_batch() -> None:
    def largest(num_rows: int, tile: int) -> int:
        questions, passages = sides(num_rows, num_rows)
        keys = torch.stack([torch.arange(num_rows), torch.arange(num_rows).roll(1)], dim=1)
        mined = HardNegatives(
            sides(num_rows, num_rows)[1][:, None], torch.arange(num_rows)[:, None], torch.ones(num_rows, 1) > 0
        )
        settings = {"symmetric": True, "dimensions": (4,), "tile": tile}
        return watched(lambda: info_nce(questions, passages, keys, 0.05, (num_rows,), mined, **settings)).largest

    assert largest(64, 999) == 64 * (128 + 1)  # The mask is made of steps at its ends, one more than candidates.
    assert largest(64, 16) == 128 * 8  # The candidates; a tile has 256.
    assert largest(128, 16) == 256 * 8


def test_a_matrix_of_one_tile_is_made_once() -> None:
    queries, candidates = sides(6, 9)
    assert watched(lambda: tiled_info_nce(queries, candidates, 0.05, distinct(6, 9), 9)).products == 1 + 2
    assert watched(lambda: tiled_info_nce(queries, candidates, 0.05, distinct(6, 9), 5)).products == 4 * (1 + 3)


@contextmanager
def coarse() -> Iterator[None]:
    """All that a process may have switched on to be fast."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            yield
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_scores_are_exact_whatever_the_process_is_set_to() -> None:
    made = []
    for where in (coarse, torch.enable_grad):
        queries, candidates = sides(9, 9, kind=torch.float32)
        with where():
            watch = watched(lambda q=queries, c=candidates: tiled_info_nce(q, c, 0.01, distinct(9, 9), 4))
        assert watch.precisions == {("ieee", torch.float32)}
        made.append((queries.grad, candidates.grad))
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


@pytest.mark.parametrize("tile", [3, 99])
def test_bf16_vectors_have_fp32_scores_and_bf16_gradients(tile: int) -> None:
    halves = sides(9, 9, kind=torch.bfloat16)
    wholes = [half.detach().float().requires_grad_() for half in halves]
    losses = [tiled_info_nce(*pair, 0.01, distinct(9, 9), tile) for pair in (halves, wholes)]
    assert losses[0].dtype == torch.float32
    assert losses[0] == losses[1]
    torch.stack(losses).sum().backward()
    for half, whole in zip(halves, wholes, strict=True):
        assert torch.equal(half.grad, whole.grad.bfloat16())


def test_sharp_and_large_scores_stay_finite_and_near() -> None:
    """exp(100 / 0.01) is far beyond float32."""
    narrow, exact = (
        [100 * side.detach() for side in sides(20, 20, kind=kind)] for kind in (torch.float32, torch.float64)
    )
    loss = tiled_info_nce(*narrow, 0.01, distinct(20, 20), 6)
    assert loss.item() == pytest.approx(tiled_info_nce(*exact, 0.01, distinct(20, 20), 6).item(), rel=1e-5)
