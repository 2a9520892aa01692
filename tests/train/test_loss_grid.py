"""The objective is one plain autograd pass over the whole batch: on any number of ranks, in tiles of any size."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_ray.train.loss.inputs import HardNegatives, LossInputs
from hbt_ray.train.loss.objective import LossConfig, Objective
from tests.train import reference_loss
from tests.train.processes import on_ranks

NUM_ROWS, WIDTH, PER_ROW = 11, 7, 2
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "masks": ({}, False),
    "mined": ({}, True),
    "symmetric": ({"symmetric": True}, True),
    "matryoshka": ({"dimensions": (3, 5)}, True),
    "learned temperature": ({"learn_temperature": True}, True),
    "everything": ({"symmetric": True, "dimensions": (4,), "learn_temperature": True}, True),
}
"""Name → the loss, and whether rows have mined negatives."""
TILES = (1, 3, 8, 99)
SLICES = {
    1: [(11,)],
    2: [(5, 6), (5, 5), (10, 1)],
    3: [(3, 4, 4), (3, 3, 3), (1, 8, 2)],
    4: [(2, 3, 3, 3), (2, 2, 2, 2), (4, 1, 5, 1)],
}
"""World size → slices; the first are walked in tiles of all sizes, the others in tiles of three."""


Path = tuple[str, tuple[int, ...], int, torch.dtype]
"""Case, slices, tile, and what the vectors are made of."""


class Rows(NamedTuple):
    """A batch, or a slice of one."""

    questions: Tensor
    passages: Tensor
    positive_keys: Tensor
    mined: Tensor
    mined_keys: Tensor
    there: Tensor


def rows_of(num_rows: int, kind: torch.dtype = torch.float64) -> Rows:
    """Passages are shared within slices and between them; some questions have several right ones, of which some are in
    no row; mined ones are passages of the batch, too, and the last rows have none: all of a rank's."""
    generator = torch.Generator().manual_seed(5)
    double = {"generator": generator, "dtype": torch.float64}
    sides = [F.normalize(torch.randn(num_rows, WIDTH, **double)).to(kind) for _ in range(2)]
    keys = torch.tensor([1, 2, 3, 1, 5, 6, 1, 2, 9, 10, 2])[:num_rows]
    # Rows 0 and 2 ask one question; row 4's is also answered by what rows 5 and 9 have, and row 8's by 99, of no row.
    others = {0: (3, 3), 2: (1, 1), 4: (6, 10), 8: (99, 14)}
    positive_keys = torch.stack(
        [torch.tensor([key, *others.get(row, (key, key))]) for row, key in enumerate(keys.tolist())]
    )
    mined = F.normalize(torch.randn(num_rows, PER_ROW, WIDTH, **double), dim=2).to(kind)
    mined_keys = torch.randint(0, 15, (num_rows, PER_ROW), generator=generator)
    there = torch.rand(num_rows, PER_ROW, generator=generator) < 0.7
    there[-3:] = False
    return Rows(*sides, positive_keys, mined, mined_keys, there)


def ours(case: str, sizes: tuple[int, ...], tile: int, kind: torch.dtype, rank: int) -> list[Tensor]:
    """A rank's part of the loss; the gradients of its vectors, and its part of that of the temperature."""
    settings, with_mined = CASES[case]
    rows = Rows(*(column.split(sizes)[rank].clone() for column in rows_of(sum(sizes), kind)))
    leaves = [rows.questions, rows.passages, *([rows.mined] if with_mined else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    mined = HardNegatives(rows.mined, rows.mined_keys, rows.there) if with_mined else None
    objective = Objective(LossConfig(tile=tile, **settings)).to(kind)
    part = objective(LossInputs(*rows[:3], rows.positive_keys[:, 0], rows.positive_keys[:, 0], mined), sizes)
    part.backward()
    return [part.detach(), *(leaf.grad for leaf in (*objective.parameters(), *leaves) if leaf.grad is not None)]


def theirs(case: str, num_rows: int) -> list[Tensor]:
    """The same of the whole batch, by plain autograd."""
    settings, with_mined = CASES[case]
    rows = rows_of(num_rows)
    leaves = [rows.questions, rows.passages, *([rows.mined] if with_mined else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    objective = Objective(LossConfig(**settings)).double()
    negatives = (rows.mined[rows.there], rows.mined_keys[rows.there]) if with_mined else ()
    loss = reference_loss.loss_of_vectors(*rows[:3], objective.config, objective.temperature, *negatives)
    loss.backward()
    return [loss.detach(), *(leaf.grad for leaf in (*objective.parameters(), *leaves) if leaf.grad is not None)]


def walk(rank: int, world_size: int) -> dict[Path, list[Tensor]]:
    """All that this world can do of the grid; in float32 once a case and slices."""
    first, *others = SLICES[world_size]
    double, single = torch.float64, torch.float32
    paths = [(first, tile, double) for tile in TILES] + [(sizes, 3, double) for sizes in others] + [(first, 3, single)]
    return {(case, *path): ours(case, *path, rank) for case in CASES for path in paths}


@pytest.mark.parametrize("world_size", [1, 2, *(pytest.param(size, marks=pytest.mark.integration) for size in (3, 4))])
def test_ranks_and_tiles_are_one_plain_pass(world_size: int) -> None:
    ranks = on_ranks(world_size, walk, world_size) if world_size > 1 else [walk(0, 1)]
    for path in ranks[0]:
        case, sizes, _, kind = path
        for whole, *parts in zip(theirs(case, sum(sizes)), *(rank[path] for rank in ranks), strict=True):
            # Scalars are parts of a sum, the others are rows.
            joined = torch.cat(parts) if whole.dim() else torch.stack(parts).sum()
            assert (joined - whole).abs().max() < (1e-9 if kind == torch.float64 else 1e-5), path
