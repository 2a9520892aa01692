"""The optimiser: rates by table and by property, which parameters share one, and the average of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hbt_ray.train.engine.average import Average
from hbt_ray.train.engine.optimiser import OptimiserConfig, layer_factors, make_optimiser, rate, set_rates
from hbt_ray.train.loss.config import LossConfig
from hbt_ray.train.loss.objective import Objective

DECAYS = ["linear", "cosine", "wsd", "none"]


@pytest.mark.parametrize(
    ("decay", "at_30", "at_55", "at_99"),
    [
        ("linear", 70 / 90, 45 / 90, 1 / 90),
        ("cosine", (1 - math.cos(math.pi * 70 / 90)) / 2, 0.5, (1 - math.cos(math.pi / 90)) / 2),
        ("wsd", 1.0, 1.0, 1 / 20),
        ("none", 1.0, 1.0, 1.0),
    ],
)
def test_the_rate_of_a_step(decay: str, at_30: float, at_55: float, at_99: float) -> None:
    config = OptimiserConfig(steps=100, learning_rate=1.0, warmup=0.1, decay=decay)
    rates = [rate(config, step) for step in (0, 4, 10, 30, 55, 99)]
    assert rates == pytest.approx([1 / 11, 5 / 11, 1.0, at_30, at_55, at_99])


@given(st.sampled_from(DECAYS), st.integers(1, 300), st.floats(0, 0.9), st.floats(0.01, 1))
def test_rates_rise_to_the_peak_and_never_rise_again(decay: str, steps: int, warmup: float, share: float) -> None:
    config = OptimiserConfig(steps=steps, learning_rate=0.5, warmup=warmup, decay=decay, decay_share=share)
    rates = [rate(config, step) for step in range(steps)]
    assert all(0 < value <= 0.5 + 1e-12 for value in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


class Layered(nn.Module):
    """Embeddings, three layers and a head, as transformers are made."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(4, 2)
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.norm = nn.LayerNorm(2)


def test_lower_layers_have_lower_rates_and_vectors_do_not_shrink() -> None:
    encoder = Layered()
    factors = layer_factors(encoder, 0.5)
    assert factors["embeddings.weight"] == 0.125
    assert [factors[f"layers.{number}.weight"] for number in range(3)] == [0.25, 0.5, 1.0]
    assert factors["norm.bias"] == 1.0
    assert set(layer_factors(encoder, 1.0).values()) == {1.0}
    config = OptimiserConfig(steps=10, learning_rate=0.1, warmup=0, layer_decay=0.5, weight_decay=0.3)
    optimiser = make_optimiser(encoder, Objective(LossConfig(learn_temperature=True)), config)
    set_rates(optimiser, config, 5)
    of = {id(parameter): group for group in optimiser.param_groups for parameter in group["params"]}
    assert len(of) == sum(1 for _ in encoder.parameters()) + 1
    assert of[id(encoder.layers[0].weight)]["lr"] == pytest.approx(0.25 * 0.1 * 5 / 10)
    assert of[id(encoder.layers[0].weight)]["weight_decay"] == 0.3
    assert of[id(encoder.layers[0].bias)]["weight_decay"] == 0.0


def test_what_is_frozen_is_left_out() -> None:
    encoder = Layered()
    encoder.embeddings.requires_grad_(False)
    optimiser = make_optimiser(encoder, Objective(LossConfig()), OptimiserConfig())
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert id(encoder.embeddings.weight) not in held
    assert len(held) == sum(1 for _ in encoder.parameters()) - 1
    assert set(Average(encoder, 0.9).values) == {
        name for name, value in encoder.named_parameters() if value.requires_grad
    }


def test_the_average_by_hand_and_continued() -> None:
    encoder = nn.Linear(1, 1, bias=False).double()
    encoder.weight.data.fill_(0.0)
    average, expected = Average(encoder, 0.5), 0.0
    for number, value in enumerate([1.0, 3.0, -2.0, 5.0, 8.0, 1.0, 4.0, 4.0, 9.0]):
        if number == 4:  # Stopped and continued.
            saved = {name: tensor.clone() for name, tensor in average.values.items()}
            average, before = Average(encoder, 0.5), average
            average.load(saved, before.num_updates)
        encoder.weight.data.fill_(value)
        average.update(encoder)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
        assert average.values["weight"].item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(encoder.weight.detach(), torch.full((1, 1), 9.0, dtype=torch.float64))
