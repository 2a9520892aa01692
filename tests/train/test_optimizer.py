"""The optimiser: learning rates by table and by property, its parameter groups, and the average of the weights."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hbt_ray.train.loss.objective import LossConfig, Objective
from hbt_ray.train.step.optimizer import (
    Ema,
    OptimiserConfig,
    RateStage,
    layer_factors,
    learning_rate,
    make_optimiser,
    restore_optimiser,
    set_learning_rates,
)

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
    rates = [learning_rate(config, step) for step in (0, 4, 10, 30, 55, 99)]
    assert rates == pytest.approx([1 / 11, 5 / 11, 1.0, at_30, at_55, at_99])


def test_stages_are_factors_of_the_schedule() -> None:
    plain = OptimiserConfig(steps=100, learning_rate=1.0, warmup=0.1)
    stages = (RateStage(from_step=0, factor=1), RateStage(from_step=50, factor=3), RateStage(from_step=70, factor=0.5))
    staged = plain.model_copy(update={"rate_stages": stages})
    factors = [learning_rate(staged, step) / learning_rate(plain, step) for step in range(100)]
    assert factors == pytest.approx([1.0] * 50 + [3.0] * 20 + [0.5] * 30)


@given(st.sampled_from(DECAYS), st.integers(1, 300), st.floats(0, 0.9), st.floats(0.01, 1))
def test_rates_rise_to_the_peak_and_never_rise_again(decay: str, steps: int, warmup: float, share: float) -> None:
    config = OptimiserConfig(steps=steps, learning_rate=0.5, warmup=warmup, decay=decay, decay_share=share)
    rates = [learning_rate(config, step) for step in range(steps)]
    assert all(0 < value <= 0.5 + 1e-12 for value in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@given(st.sampled_from(DECAYS), st.integers(20, 300), st.floats(0, 0.9), st.floats(0.1, 1))
def test_rates_have_no_jumps(decay: str, steps: int, warmup: float, share: float) -> None:
    config = OptimiserConfig(steps=steps, learning_rate=1.0, warmup=warmup, decay=decay, decay_share=share)
    rates = [learning_rate(config, step) for step in range(steps)]
    rise, fall = warmup * steps, (1 - warmup) * steps
    ramp = min(share * steps, fall) if decay == "wsd" else fall
    # No schedule is steeper than its straight ramps, but for the cosine, by half a pi.
    steepest = max(1 / (rise + 1), math.pi / 2 / ramp)
    assert all(abs(after - before) <= steepest + 1e-9 for before, after in pairwise(rates))


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
    set_learning_rates(optimiser, config, 5)
    of = {id(parameter): group for group in optimiser.param_groups for parameter in group["params"]}
    assert len(of) == sum(1 for _ in encoder.parameters()) + 1
    assert of[id(encoder.layers[0].weight)]["lr"] == pytest.approx(0.25 * 0.1 * 5 / 10)
    assert of[id(encoder.layers[0].weight)]["weight_decay"] == 0.3
    assert of[id(encoder.layers[0].bias)]["weight_decay"] == 0.0


TINY = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", {**TINY, "num_hidden_layers": 3}),
    "XLM-R": ("XLMRoberta", {**TINY, "num_hidden_layers": 3}),
    "MPNet": ("MPNet", {**TINY, "num_hidden_layers": 3}),
    "ModernBERT": ("ModernBert", {**TINY, "num_hidden_layers": 3, "pad_token_id": 0}),
    "DistilBERT": ("DistilBert", {"dim": 8, "n_heads": 2, "hidden_dim": 8, "vocab_size": 20, "n_layers": 3}),
}


def tiny(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    prefix, settings = ENCODERS[name]
    model: nn.Module = getattr(transformers, f"{prefix}Model")(getattr(transformers, f"{prefix}Config")(**settings))
    return model


@pytest.mark.parametrize("name", ENCODERS)
def test_the_layers_of_real_encoders_are_found(name: str) -> None:
    factors = layer_factors(tiny(name), 0.5)
    embeddings = {factor for key, factor in factors.items() if key.startswith("embeddings.")}
    assert embeddings == {0.125}
    for number, expected in enumerate([0.25, 0.5, 1.0]):
        layer = {factor for key, factor in factors.items() if re.search(rf"layers?\.{number}\.", key)}
        assert layer == {expected}, number


def test_the_layers_below_adapters_are_found() -> None:
    peft = pytest.importorskip("peft")
    encoder = tiny("XLM-R")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["query", "value"]), encoder)
    factors = layer_factors(encoder, 0.5)
    trained = {name: factors[name] for name, value in encoder.named_parameters() if value.requires_grad}
    assert len(trained) == 12
    assert all("lora" in name and factor == 0.5 ** (2 - int(name.split(".")[2])) for name, factor in trained.items())
    optimiser = make_optimiser(encoder, Objective(LossConfig()), OptimiserConfig(layer_decay=0.5))
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 12


def test_lists_within_a_layer_are_no_layers() -> None:
    encoder = nn.Module()
    encoder.experts_above = nn.ModuleList(nn.Linear(2, 2) for _ in range(1))
    encoder.layers = nn.ModuleList(nn.ModuleList(nn.Linear(2, 2) for _ in range(7)) for _ in range(2))
    factors = layer_factors(encoder, 0.5)
    assert [factors[f"layers.{layer}.{expert}.bias"] for layer in range(2) for expert in (0, 6)] == [0.5, 0.5, 1, 1]


def test_a_learned_temperature_may_have_a_rate_of_its_own() -> None:
    encoder, objective = Layered(), Objective(LossConfig(learn_temperature=True))
    settings: dict[str, Any] = {"steps": 10, "learning_rate": 0.1, "warmup": 0, "decay": "none"}
    for own, expected in [(None, 0.1), (0.4, 0.4)]:
        config = OptimiserConfig(**settings, temperature_learning_rate=own)
        optimiser = make_optimiser(encoder, objective, config)
        set_learning_rates(optimiser, config, 3)
        of = {id(parameter): group for group in optimiser.param_groups for parameter in group["params"]}
        assert of[id(objective.log_scale)]["lr"] == pytest.approx(expected)
        assert of[id(objective.log_scale)]["weight_decay"] == 0.0
        assert of[id(encoder.norm.bias)]["lr"] == pytest.approx(0.1)


def test_a_continued_run_takes_its_moments_back_and_its_options_from_the_configuration() -> None:
    encoder, objective = Layered(), Objective(LossConfig())
    first = make_optimiser(encoder, objective, OptimiserConfig(weight_decay=0.3))
    for parameter in encoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.step()
    again = make_optimiser(encoder, objective, OptimiserConfig(weight_decay=0.0, beta2=0.95, epsilon=1e-6))
    restore_optimiser(again, first.state_dict())
    assert all(group["weight_decay"] == 0.0 and group["betas"] == (0.9, 0.95) for group in again.param_groups)
    assert {group["eps"] for group in again.param_groups} == {1e-6}
    for parameter in encoder.parameters():
        assert torch.equal(again.state[parameter]["exp_avg"], first.state[parameter]["exp_avg"])
    with pytest.raises(ValueError, match="parameter group"):
        restore_optimiser(make_optimiser(encoder, objective, OptimiserConfig(layer_decay=0.9)), first.state_dict())


def test_what_is_frozen_is_left_out() -> None:
    encoder = Layered()
    encoder.embeddings.requires_grad_(False)
    optimiser = make_optimiser(encoder, Objective(LossConfig()), OptimiserConfig())
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert id(encoder.embeddings.weight) not in held
    assert len(held) == sum(1 for _ in encoder.parameters()) - 1
    assert set(Ema(encoder, 0.9).values) == {name for name, value in encoder.named_parameters() if value.requires_grad}


def test_the_average_by_hand_and_continued() -> None:
    encoder = nn.Linear(1, 1, bias=False).double()
    encoder.weight.data.fill_(0.0)
    average, expected = Ema(encoder, 0.5), 0.0
    for number, value in enumerate([1.0, 3.0, -2.0, 5.0, 8.0, 1.0, 4.0, 4.0, 9.0]):
        if number == 4:  # Stopped and continued.
            saved = {name: tensor.clone() for name, tensor in average.values.items()}
            average, before = Ema(encoder, 0.5), average
            average.load(saved, before.num_updates)
        encoder.weight.data.fill_(value)
        average.update(encoder)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
        assert average.values["weight"].item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(encoder.weight.detach(), torch.full((1, 1), 9.0, dtype=torch.float64))
