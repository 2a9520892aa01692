"""The train step: ranks, micro-batches, caches and tiles learn what one plain pass learns; a loss that is not finite
stops all ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.data.stream.tokenise import Tokens, TokenSections
from hbt_ray.errors import NonFiniteLoss
from hbt_ray.train.loss.objective import LossConfig, Objective
from hbt_ray.train.step.encoder_inputs import Teacher
from hbt_ray.train.step.optimizer import OptimiserConfig
from hbt_ray.train.step.train_step import StepMetrics, TrainStep, train
from tests.train import reference_loss
from tests.train.batches import NUM_ROWS, PER_ROW, batch, sizes_of
from tests.train.encoders import TinyEncoder
from tests.train.processes import on_ranks

TERMS: dict[str, Any] = {
    name: {"weight": 0.5} for name in ("lakda", "alignment", "erasure", "imitation", "distillation")
}
OBJECTIVES: dict[str, tuple[dict[str, Any], bool]] = {
    "masks": ({}, False),
    "mined": ({}, True),
    "symmetric": ({"symmetric": True}, True),
    "matryoshka": ({"dimensions": (4, 9)}, True),
    "learned temperature": ({"learn_temperature": True}, False),
    "everything": ({"symmetric": True, "dimensions": (5,), "learn_temperature": True}, True),
    **{name: ({name: settings}, True) for name, settings in TERMS.items()},
    "all terms": ({**TERMS, "symmetric": True}, True),
}
"""Name → the loss, and whether rows have mined negatives."""
PATHS = [(chunk_rows, tokens, tile) for chunk_rows in (1, 3, 8, 0) for tokens in (None, 0, 70) for tile in (1, 5, 99)]
"""Rows of a chunk, tokens kept, and rows of a tile."""


def make_train_step(
    kind: torch.dtype,
    rank: int = 0,
    world_size: int = 1,
    dropout: float = 0.0,
    loss: LossConfig | None = None,
    **settings: object,
) -> TrainStep:
    config = OptimiserConfig(**{"steps": 20, "learning_rate": 1e-2, **settings})
    objective = Objective(loss or LossConfig()).to(kind)
    encoder, sizes = TinyEncoder(kind, dropout), sizes_of(world_size)
    teacher = Teacher(a_teacher(kind), config, torch.device("cpu")) if objective.config.imitation else None
    return TrainStep(encoder, config, objective, padding_id=0, rank=rank, rank_sizes=sizes, teacher=teacher)


def test_the_temperature_of_a_step_is_told_where_it_is_learned() -> None:
    train_step = make_train_step(torch.float64, loss=LossConfig(temperature=0.05, learn_temperature=True))
    assert train_step.run(batch(0, mined=False)).temperature == pytest.approx(0.05, rel=1e-6)
    assert train_step.run(batch(1, mined=False)).temperature not in (None, pytest.approx(0.05, rel=1e-6))
    assert make_train_step(torch.float64).run(batch(0, mined=False)).temperature is None


def a_teacher(kind: torch.dtype) -> TinyEncoder:
    """Of the student's width, and of another mind."""
    encoder = TinyEncoder(kind)
    for parameter in encoder.parameters():
        parameter.data.copy_(parameter.flip(0))
    return encoder


def loss_and_gradients(train_step: TrainStep, rank_batch: RankBatch) -> list[Tensor]:
    """Of one step, before clipping."""
    loss = train_step.run(rank_batch).loss
    parameters = [*train_step.encoder.parameters(), *train_step.objective.parameters()]
    return [
        torch.tensor(loss, dtype=torch.float64),
        *(parameter.grad.clone() for parameter in parameters if parameter.grad is not None),
    ]


def by_any_path(rank: int, world_size: int) -> dict[str, list[list[Tensor]]]:
    """Objective → by path, loss and all gradients. Each objective walks half of the paths, on several ranks a sixth."""
    results: dict[str, list[list[Tensor]]] = {}
    for number, (name, (settings, mined)) in enumerate(OBJECTIVES.items()):
        for chunk_rows, tokens, tile in (
            PATHS[number % 2 :: 2] if world_size == 1 else PATHS[(number + world_size) % 6 :: 6]
        ):
            config = LossConfig(tile=tile, **settings)
            paths = {"chunk_rows": chunk_rows, "activation_tokens": tokens, "max_gradient_norm": 1e9}
            one = make_train_step(torch.float64, rank, world_size, loss=config, **paths)
            some = batch(1, rank, world_size, mined=mined, views=bool(config.terms))
            results.setdefault(name, []).append(loss_and_gradients(one, some))
    return results


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Tensor]]:
    """By plain autograd in one pass."""
    results = {}
    for name, (settings, mined) in OBJECTIVES.items():
        encoder, config = TinyEncoder(torch.float64), LossConfig(**settings)
        log_scale = Objective(config).double().log_scale  # It was rounded to float32 before.
        temperature = torch.tensor(config.temperature, dtype=torch.float64) if log_scale is None else (-log_scale).exp()
        some = batch(1, mined=mined, views=bool(config.terms))
        loss = reference_loss.loss(encoder, some, config, temperature.double(), a_teacher(torch.float64))
        loss.backward()
        gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
        results[name] = [loss.detach(), *gradients, *([log_scale.grad] if log_scale is not None else [])]
    return results


@pytest.mark.parametrize("world_size", [1, 2, *(pytest.param(size, marks=pytest.mark.integration) for size in (3, 4))])
def test_all_paths_give_the_loss_and_gradients_of_one_plain_pass(
    world_size: int, expected: dict[str, list[Tensor]]
) -> None:
    ranks = on_ranks(world_size, by_any_path, world_size) if world_size > 1 else [by_any_path(0, 1)]
    for rank in ranks:
        for name, paths in rank.items():
            for path in paths:
                for ours, theirs in zip(path, expected[name], strict=True):
                    assert (ours - theirs).abs().max() < 1e-9, name


def over_steps(rank: int, kind: torch.dtype, world_size: int, num_steps: int) -> tuple[list[float], list[Tensor]]:
    """Losses, and the weights in the end."""
    train_step = make_train_step(kind, rank, world_size, chunk_rows=3, activation_tokens=20)
    losses = [train_step.run(batch(step, rank, world_size, mined=True)).loss for step in range(num_steps)]
    return losses, [parameter.detach().clone() for parameter in train_step.encoder.parameters()]


def test_weights_of_ranks_stay_with_one_process_over_many_steps() -> None:
    losses, weights = over_steps(0, torch.float64, 1, 10)
    assert losses[-1] < losses[0]
    for rank_losses, rank_weights in on_ranks(3, over_steps, torch.float64, 3, 10):
        assert rank_losses == pytest.approx(losses, abs=1e-9)
        for mine, theirs in zip(weights, rank_weights, strict=True):
            assert (mine - theirs).abs().max() < 1e-6  # AdamW divides by small second moments.


def test_a_batch_whose_negatives_are_all_missing_is_one_without() -> None:
    plain = batch(0)
    empty = Tokens.from_lengths(np.empty(0, np.int32), np.zeros(NUM_ROWS * PER_ROW, np.int32))
    sections = {"questions": plain.texts["questions"], "passages": plain.texts["passages"], "negatives": empty}
    keys = np.zeros(NUM_ROWS * PER_ROW, np.int64)
    missing = replace(plain, texts=TokenSections.concatenate(sections), negative_keys=keys)
    assert make_train_step(torch.float64).run(missing).loss == pytest.approx(
        make_train_step(torch.float64).run(batch(0)).loss, abs=1e-12
    )


def test_a_rank_without_a_text_for_the_teacher_takes_part() -> None:
    plain = batch(1, mined=True, views=True)
    missing = Tokens.from_lengths(np.empty(0, np.int32), np.zeros(NUM_ROWS, np.int32))
    sections = {name: plain.texts[name] for name in plain.texts.bounds}
    sections |= dict.fromkeys(("teacher_questions", "teacher_passages"), missing)
    without = replace(plain, texts=TokenSections.concatenate(sections))
    result = make_train_step(torch.float64, loss=LossConfig(imitation={"weight": 0.5})).run(without)
    assert result.parts["imitation"] == 0
    assert result.loss == pytest.approx(make_train_step(torch.float64).run(plain).loss, abs=1e-12)


@pytest.mark.parametrize("activation_tokens", [None, 0, 40])
def test_dropout_is_a_function_of_the_step_whatever_is_cached(activation_tokens: int | None) -> None:
    first = make_train_step(torch.float64, dropout=0.5, chunk_rows=3, activation_tokens=None)
    second = make_train_step(torch.float64, dropout=0.5, chunk_rows=3, activation_tokens=activation_tokens)
    torch.manual_seed(99)
    one = loss_and_gradients(first, batch(3))
    torch.manual_seed(7)
    torch.rand(10)
    for ours, theirs in zip(loss_and_gradients(second, batch(3)), one, strict=True):
        assert (ours - theirs).abs().max() < 1e-12
    assert make_train_step(torch.float64, dropout=0.0).run(batch(3)).loss != one[0].item()


def break_second_step(rank: int, what: str) -> tuple[str, int, bool]:
    train_step = make_train_step(torch.float32, rank, 2)
    train_step.run(batch(0, rank, 2))
    before = [parameter.detach().clone() for parameter in train_step.encoder.parameters()]
    if rank == 1:  # Only one rank is damaged; both must stop.
        if what == "vectors":
            train_step.encoder.embedding.register_forward_hook(lambda *args: args[-1] * torch.inf)
        else:
            train_step.encoder.layer.weight.register_hook(lambda gradient: gradient * torch.inf)
    try:
        train_step.run(batch(1, rank, 2))
    except NonFiniteLoss as error:
        kept = all(torch.equal(a, b) for a, b in zip(before, train_step.encoder.parameters(), strict=True))
        return type(error).__name__, error.step, kept
    return "no error", -1, False


@pytest.mark.parametrize("what", ["vectors", "gradient"])
def test_what_is_not_finite_stops_every_rank_before_the_weights_change(what: str) -> None:
    assert on_ranks(2, break_second_step, what) == [("NonFiniteLoss", 1, True)] * 2


def test_bf16_autocast_stays_near_and_keeps_fp32_weights() -> None:
    half = make_train_step(torch.float32, precision="bf16", chunk_rows=3, activation_tokens=20)
    full = make_train_step(torch.float32)
    assert half.run(batch(0)).loss == pytest.approx(full.run(batch(0)).loss, rel=0.05)
    assert half.run(batch(1)).loss != full.run(batch(1)).loss
    assert half.run(batch(2, mined=True)).loss == pytest.approx(full.run(batch(2, mined=True)).loss, rel=0.05)
    assert {parameter.dtype for parameter in half.encoder.parameters()} == {torch.float32}


def test_the_hook_sees_new_gradients_and_old_weights() -> None:
    train_step, seen = make_train_step(torch.float32), []
    before = train_step.encoder.layer.weight.detach().clone()
    train_step.before_update = lambda step: seen.append(
        (step, train_step.encoder.layer.weight.grad is not None, torch.equal(train_step.encoder.layer.weight, before))
    )
    train_step.run(batch(5))
    assert seen == [(5, True, True)]
    assert not torch.equal(train_step.encoder.layer.weight, before)


def test_the_learned_temperature_moves_and_stays_above_its_bound() -> None:
    train_step = make_train_step(
        torch.float32, loss=LossConfig(temperature=0.0101, learn_temperature=True), learning_rate=0.5
    )
    for step in range(6):
        train_step.run(batch(step))
    temperature = train_step.objective.temperature
    assert isinstance(temperature, Tensor)
    assert temperature.item() >= 0.01 - 1e-7
    assert temperature.item() != pytest.approx(0.0101)


def test_the_loop_learns_records_and_saves_in_order() -> None:
    metrics: list[StepMetrics] = []
    saved: list[int] = []
    train(make_train_step(torch.float32), (batch(step) for step in range(5, 9)), metrics.append, saved.append)
    assert [outcome.step for outcome in metrics] == [5, 6, 7, 8]
    assert saved == [6, 7, 8, 9]
    assert all(outcome.pairs_per_second > 0 and outcome.gradient_norm > 0 for outcome in metrics)


def test_learning_lowers_the_loss() -> None:
    train_step = make_train_step(torch.float32, steps=200, learning_rate=3e-2, decay="none")
    losses = [train_step.run(batch(step % 3)).loss for step in range(60)]
    assert sum(losses[-3:]) < 0.3 * sum(losses[:3])
