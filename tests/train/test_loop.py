"""The learner: ranks learn what one process learns; a non-finite loss stops all of them before the weights change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hbt_ray.data.stream.local import LocalBatch
from hbt_ray.data.stream.tokens import Tokens
from hbt_ray.errors import NonFiniteLoss
from hbt_ray.train.engine.loop import Learner, OptimiserConfig, Outcome, train
from hbt_ray.train.loss.info_nce import LossConfig
from tests.train.processes import on_ranks

NUM_ROWS = 8


class TinyEncoder(nn.Module):
    """Mean of embeddings, a layer, unit length: the shape of a SentenceTransformer."""

    def __init__(self, kind: torch.dtype, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(50, 16, dtype=kind)
        self.layer = nn.Linear(16, 16, dtype=kind)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = features["attention_mask"].unsqueeze(-1)
        mean = (self.embedding(features["input_ids"]) * mask).sum(1) / mask.sum(1)
        return {"sentence_embedding": nn.functional.normalize(self.dropout(torch.tanh(self.layer(mean))))}


def local(step: int, rank: int = 0, world_size: int = 1) -> LocalBatch:
    rng = np.random.default_rng(step)
    lengths = [rng.integers(2, 7, NUM_ROWS).astype(np.int32) for _ in range(2)]
    sides = [Tokens(rng.integers(1, 50, side.sum()).astype(np.int32), side) for side in lengths]
    keys = rng.integers(0, 6, NUM_ROWS)
    part = np.arange(NUM_ROWS * rank // world_size, NUM_ROWS * (rank + 1) // world_size)
    questions, passages = (side.take(part) for side in sides)
    return LocalBatch(step, "mono", "set", "de", part, questions, passages, keys[part])


def local_mined(step: int, rank: int = 0, world_size: int = 1) -> LocalBatch:
    """The same with two mined negatives a row, not all there; from step 1 on the last of three ranks has none."""
    rng = np.random.default_rng(1000 + step)
    lengths = rng.integers(2, 9, NUM_ROWS * 2).astype(np.int32) * (rng.random(NUM_ROWS * 2) < 0.7)
    if step:
        lengths[NUM_ROWS:] = 0
    tokens = Tokens(rng.integers(1, 50, lengths.sum()).astype(np.int32), lengths)
    keys = rng.integers(0, 12, NUM_ROWS * 2)
    part = np.arange(2 * (NUM_ROWS * rank // world_size), 2 * (NUM_ROWS * (rank + 1) // world_size))
    return replace(local(step, rank, world_size), negatives=tokens.take(part), negative_keys=keys[part])


def learner(kind: torch.dtype, rank: int = 0, world_size: int = 1, dropout: float = 0.0, **settings: object) -> Learner:
    sizes = tuple(NUM_ROWS * (r + 1) // world_size - NUM_ROWS * r // world_size for r in range(world_size))
    config = OptimiserConfig(**{"steps": 20, "learning_rate": 1e-2, **settings})
    return Learner(TinyEncoder(kind, dropout), config, LossConfig(), padding_id=0, rank=rank, sizes=sizes)


def run(
    rank: int,
    kind: torch.dtype,
    world_size: int,
    num_steps: int,
    batches: Callable[..., LocalBatch] = local,
    chunk_rows: int = 0,
) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """Losses, gradients of the last step and weights after it."""
    made = learner(kind, rank, world_size, chunk_rows=chunk_rows)
    losses = [made.learn(batches(step, rank, world_size))[0] for step in range(num_steps)]
    parameters = list(made.encoder.parameters())
    return losses, [p.grad.clone() for p in parameters if p.grad is not None], [p.detach().clone() for p in parameters]


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_learn_what_one_process_learns(kind: torch.dtype, tolerance: float, world_size: int) -> None:
    losses, gradients, _ = run(0, kind, 1, 1)
    for rank_losses, rank_gradients, _ in on_ranks(world_size, run, kind, world_size, 1):
        assert rank_losses == pytest.approx(losses, abs=tolerance)
        for mine, theirs in zip(gradients, rank_gradients, strict=True):
            assert (mine - theirs).abs().max() < tolerance


@pytest.mark.parametrize("chunk_rows", [1, 3, 7])
def test_chunks_learn_what_the_whole_batch_learns(chunk_rows: int) -> None:
    losses, gradients, weights = run(0, torch.float64, 1, 3)
    theirs = run(0, torch.float64, 1, 3, chunk_rows=chunk_rows)
    assert theirs[0] == pytest.approx(losses, abs=1e-9)
    for mine, other in zip(gradients, theirs[1], strict=True):
        assert (mine - other).abs().max() < 1e-9
    for mine, other in zip(weights, theirs[2], strict=True):
        assert (mine - other).abs().max() < 1e-6  # AdamW divides by small second moments.
    assert run(0, torch.float32, 1, 1, chunk_rows=chunk_rows)[0] == pytest.approx(
        run(0, torch.float32, 1, 1)[0], abs=1e-6
    )


def test_ranks_with_chunks_learn_what_one_process_learns() -> None:
    losses, gradients, _ = run(0, torch.float64, 1, 1)
    for rank_losses, rank_gradients, _ in on_ranks(2, run, torch.float64, 2, 1, local, 3):  # Slices of 4 rows.
        assert rank_losses == pytest.approx(losses, abs=1e-9)
        for mine, theirs in zip(gradients, rank_gradients, strict=True):
            assert (mine - theirs).abs().max() < 1e-9


def test_weights_of_ranks_stay_with_one_process_over_many_steps() -> None:
    losses, _, weights = run(0, torch.float64, 1, 10)
    for rank_losses, _, rank_weights in on_ranks(2, run, torch.float64, 2, 10):
        assert rank_losses == pytest.approx(losses, abs=1e-9)
        for mine, theirs in zip(weights, rank_weights, strict=True):
            assert (mine - theirs).abs().max() < 1e-6  # AdamW divides by small second moments.


def test_ranks_learn_from_mined_negatives_what_one_process_learns() -> None:
    losses, gradients, weights = run(0, torch.float64, 1, 3, local_mined)
    assert losses[0] > run(0, torch.float64, 1, 1)[0][0]
    for rank_losses, rank_gradients, rank_weights in on_ranks(3, run, torch.float64, 3, 3, local_mined):
        assert rank_losses == pytest.approx(losses, abs=1e-9)
        for mine, theirs in zip((*gradients, *weights), (*rank_gradients, *rank_weights), strict=True):
            assert (mine - theirs).abs().max() < 1e-7  # AdamW divides by small second moments.


def test_a_batch_whose_negatives_are_all_missing_is_one_without() -> None:
    empty = Tokens(np.empty(0, np.int32), np.zeros(NUM_ROWS * 2, np.int32))
    missing = replace(local(0), negatives=empty, negative_keys=np.zeros(NUM_ROWS * 2, np.int64))
    assert learner(torch.float64).learn(missing) == pytest.approx(learner(torch.float64).learn(local(0)), abs=1e-12)


def test_dropout_is_a_function_of_the_step() -> None:
    first, second = (learner(torch.float32, dropout=0.5) for _ in range(2))
    torch.manual_seed(99)
    one = first.learn(local(3))
    torch.manual_seed(7)
    torch.rand(10)
    assert second.learn(local(3)) == one


def break_second_step(rank: int) -> tuple[str, int, bool]:
    made = learner(torch.float32, rank, 2)
    made.learn(local(0, rank, 2))
    before = [parameter.detach().clone() for parameter in made.encoder.parameters()]
    if rank == 1:  # Only one rank's vectors are damaged; both must stop.
        made.encoder.embedding.register_forward_hook(lambda *args: args[-1] * torch.inf)
    try:
        made.learn(local(1, rank, 2))
    except NonFiniteLoss as error:
        kept = all(torch.equal(a, b) for a, b in zip(before, made.encoder.parameters(), strict=True))
        return type(error).__name__, error.step, kept
    return "no error", -1, False


def test_a_loss_that_is_not_finite_stops_every_rank_before_the_weights_change() -> None:
    assert on_ranks(2, break_second_step) == [("NonFiniteLoss", 1, True)] * 2


def test_bf16_autocast_stays_near_and_keeps_fp32_weights() -> None:
    half, full = learner(torch.float32, precision="bf16"), learner(torch.float32)
    assert half.learn(local(0))[0] == pytest.approx(full.learn(local(0))[0], rel=0.05)
    assert half.learn(local(1))[0] != full.learn(local(1))[0]
    assert half.learn(local_mined(2))[0] == pytest.approx(full.learn(local_mined(2))[0], rel=0.05)
    assert {parameter.dtype for parameter in half.encoder.parameters()} == {torch.float32}


def test_the_learning_rate_rises_and_falls() -> None:
    config = OptimiserConfig(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1.0 == max(rates)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 90)
    assert {OptimiserConfig(steps=9, warmup=0, decay="none", learning_rate=0.5).rate(step) for step in range(9)} == {
        0.5
    }


def test_the_loop_records_and_offers_every_step() -> None:
    outcomes: list[Outcome] = []
    saved: list[int] = []
    train(learner(torch.float32), (local(step) for step in range(5, 9)), outcomes.append, saved.append)
    assert [outcome.step for outcome in outcomes] == [5, 6, 7, 8]
    assert saved == [6, 7, 8, 9]
    assert all(outcome.pairs_per_second > 0 and outcome.gradient_norm > 0 for outcome in outcomes)


def test_learning_lowers_the_loss() -> None:
    made = learner(torch.float32, steps=200, learning_rate=3e-2, decay="none")
    losses = [made.learn(local(step % 3))[0] for step in range(60)]
    assert sum(losses[-3:]) < 0.3 * sum(losses[:3])
