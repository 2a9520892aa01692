"""Loss terms: each equals a calculation in plain numpy, with the same value and gradients on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from hbt_ray.train.loss.inputs import HardNegatives, LossInputs, Translation
from hbt_ray.train.loss.terms import Alignment, Distillation, Erasure, Imitation, Lakda
from tests.train.batches import NUM_ROWS, PER_ROW, sizes_of
from tests.train.processes import on_ranks

WIDTH, HEAT = 6, 0.3
TERMS: dict[str, Any] = {
    "lakda": Lakda(),
    "alignment": Alignment(),
    "erasure": Erasure(),
    "imitation": Imitation(),
    "distillation": Distillation(teacher_temperature=0.7),
}
Floats = NDArray[np.float64]


def columns(seed: int = 0, *, bare_end: bool = True) -> dict[str, Tensor]:
    """All that an `LossInputs` holds, row by row; the last rows lack every optional thing, so a rank may have none."""
    made = torch.Generator().manual_seed(seed)

    def vectors(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, WIDTH, dtype=torch.float64, generator=made), dim=-1)

    there = {name: torch.rand(NUM_ROWS, generator=made) < 0.7 for name in ("a", "b", "c", "d")}
    mined_there = torch.rand(NUM_ROWS, PER_ROW, generator=made) < 0.8
    if bare_end:
        for column in (*there.values(), mined_there):
            column[-4:] = False
    scores = torch.randn(NUM_ROWS, 1 + PER_ROW, generator=made)
    scores[torch.rand(scores.shape, generator=made) < 0.2] = torch.nan
    return {
        "questions": vectors(NUM_ROWS),
        "passages": vectors(NUM_ROWS),
        "positive_keys": torch.randint(0, 7, (NUM_ROWS, 3), generator=made),
        "question_languages": torch.randint(0, 3, (NUM_ROWS,), generator=made),
        "passage_languages": torch.randint(0, 3, (NUM_ROWS,), generator=made),
        "mined": vectors(NUM_ROWS, PER_ROW),
        "mined_keys": torch.randint(0, 12, (NUM_ROWS, PER_ROW), generator=made),
        "mined_there": mined_there,
        "question_translations": vectors(NUM_ROWS),
        "passage_translations": vectors(NUM_ROWS),
        "teacher_questions": vectors(NUM_ROWS),
        "teacher_passages": vectors(NUM_ROWS),
        **there,
        "scores": scores,
    }


def encoded(of: dict[str, Tensor]) -> LossInputs:
    return LossInputs(
        of["questions"],
        of["passages"],
        of["positive_keys"],
        of["question_languages"],
        of["passage_languages"],
        HardNegatives(of["mined"], of["mined_keys"], of["mined_there"]),
        Translation(of["question_translations"], of["a"]),
        Translation(of["passage_translations"], of["b"]),
        Translation(of["teacher_questions"], of["c"]),
        Translation(of["teacher_passages"], of["d"]),
        of["scores"],
    )


LEAVES = ("questions", "passages", "mined", "question_translations", "passage_translations")


def part_and_gradients(rank: int, world_size: int) -> dict[str, list[Tensor]]:
    """By term this rank's part and the gradients of its vectors, zeros where it does not look."""
    sizes, found = sizes_of(world_size), {}
    for name, term in TERMS.items():
        mine = {key: column.split(sizes)[rank].clone() for key, column in columns().items()}
        for leaf in LEAVES:
            mine[leaf].requires_grad_()
        part = term.rank_loss(encoded(mine), sizes, HEAT)
        part.backward()
        gradients = [mine[leaf].grad for leaf in LEAVES]
        found[name] = [part.detach(), *(torch.zeros(1) if one is None else one for one in gradients)]
    return found


@pytest.mark.parametrize("world_size", [2, *(pytest.param(size, marks=pytest.mark.integration) for size in (3, 4))])
def test_ranks_together_are_one_process(world_size: int) -> None:
    whole = part_and_gradients(0, 1)
    ranks = on_ranks(world_size, part_and_gradients, world_size)
    for name, (value, *gradients) in whole.items():
        parts, *slices = zip(*(rank[name] for rank in ranks), strict=True)
        assert abs(sum(parts) - value) < 1e-9, name
        for mine, theirs in zip(gradients, slices, strict=True):
            joined = torch.cat(theirs) if mine.numel() > 1 else torch.zeros(1)
            assert (joined - mine).abs().max() < 1e-9, name


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def kl(p: Floats, q: Floats) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def by_hand_lakda(of: dict[str, Floats]) -> float:
    values = []
    for row in np.flatnonzero(of["a"]):
        seen = [j for j in range(NUM_ROWS) if j == row or of["positive_keys"][j, 0] not in of["positive_keys"][row]]
        a, b = (
            softmax(of[side][row] @ of["passages"][seen].T / HEAT) for side in ("questions", "question_translations")
        )
        values.append(kl(b, a))
    return float(np.mean(values))


def by_hand_alignment(of: dict[str, Floats]) -> float:
    values = []
    for row in np.flatnonzero(of["b"]):
        p, q = softmax(of["passages"][row]), softmax(of["passage_translations"][row])
        values.append(np.sqrt((kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2))
    return float(np.mean(values))


def by_hand_erasure(of: dict[str, Floats]) -> float:
    z = np.concatenate([of["questions"], of["passages"]])
    labels = np.concatenate([of["question_languages"], of["passage_languages"]])
    found = [np.corrcoef(column, labels == language)[0, 1] ** 2 for column in z.T for language in np.unique(labels)]
    return float(np.mean(found))


def by_hand_imitation(of: dict[str, Floats]) -> float:
    values = [1 - of["questions"][row] @ of["teacher_questions"][row] for row in np.flatnonzero(of["c"])]
    values += [1 - of["passages"][row] @ of["teacher_passages"][row] for row in np.flatnonzero(of["d"])]
    return float(np.mean(values))


def by_hand_distillation(of: dict[str, Floats]) -> float:
    values = []
    for row in range(NUM_ROWS):
        right = np.isin(of["mined_keys"][row], of["positive_keys"][row])
        there = [True, *(of["mined_there"][row] & ~right)]
        known = [n for n in range(1 + PER_ROW) if there[n] and not np.isnan(of["scores"][row][n])]
        if len(known) > 1:
            candidates = np.stack([of["passages"][row], *of["mined"][row]])[known]
            student = softmax(candidates @ of["questions"][row] / HEAT)
            values.append(kl(softmax(of["scores"][row][known].astype(np.float64) / 0.7), student))
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("lakda", by_hand_lakda),
        ("alignment", by_hand_alignment),
        ("erasure", by_hand_erasure),
        ("imitation", by_hand_imitation),
        ("distillation", by_hand_distillation),
    ],
)
def test_by_hand(name: str, by_hand: Callable[[dict[str, Floats]], float]) -> None:
    of = columns()
    value = TERMS[name].rank_loss(encoded(of), (NUM_ROWS,), HEAT).item()
    assert value == pytest.approx(by_hand({key: column.numpy() for key, column in of.items()}), rel=1e-6)
    assert value > 0.01


def test_lakda_at_the_temperature_of_its_own() -> None:
    of = columns()
    of["positive_keys"] = torch.arange(NUM_ROWS)[:, None]
    value = Lakda(temperature=1).rank_loss(encoded(of), (NUM_ROWS,), HEAT).item()
    held = {key: column.numpy() for key, column in of.items()}
    a, b = (held[side] @ held["passages"].T for side in ("questions", "question_translations"))
    by_hand = np.mean([kl(softmax(b[row]), softmax(a[row])) for row in np.flatnonzero(held["a"])])
    assert value == pytest.approx(by_hand, rel=1e-6)


def test_what_is_equal_costs_nothing_and_has_a_finite_gradient() -> None:
    of = columns()
    for side in ("question", "passage"):
        for copy in (f"{side}_translations", f"teacher_{side}s"):
            of[copy] = of[f"{side}s"].clone()
    for name in ("lakda", "alignment", "imitation"):
        for leaf in LEAVES:
            of[leaf] = of[leaf].detach().requires_grad_()
        value = TERMS[name].rank_loss(encoded(of), (NUM_ROWS,), HEAT)
        assert value.item() == pytest.approx(0, abs=1e-5)
        value.backward()
        assert all(of[leaf].grad is None or of[leaf].grad.isfinite().all() for leaf in LEAVES)


def test_one_language_has_nothing_to_erase() -> None:
    of = columns()
    of["question_languages"][:] = of["passage_languages"][:] = 2
    of["questions"].requires_grad_()
    value = TERMS["erasure"].rank_loss(encoded(of), (NUM_ROWS,), HEAT)
    value.backward()
    assert value.item() == 0
    assert of["questions"].grad.abs().max() == 0


@pytest.mark.parametrize("name", TERMS)
def test_nothing_there_is_zero_and_bf16_is_finite(name: str) -> None:
    of = columns(bare_end=False)
    for key in ("a", "b", "c", "d", "mined_there"):
        of[key][:] = False
    for leaf in LEAVES:
        of[leaf].requires_grad_()
    value = TERMS[name].rank_loss(encoded(of), (NUM_ROWS,), HEAT)
    value.backward()
    if name != "erasure":
        assert value.item() == 0
    halves = {key: column.bfloat16() if column.dtype == torch.float64 else column for key, column in columns().items()}
    made = TERMS[name].rank_loss(encoded(halves), (NUM_ROWS,), HEAT)
    assert made.dtype == torch.float32
    assert made.isfinite()
