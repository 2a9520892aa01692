"""The optimiser: AdamW, which parameters share a rate, and the rate of a step as a pure function."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from hbt_ray.config import Config


class RateStage(Config):
    """A factor of the learning rate from a step on."""

    from_step: int = Field(ge=0)
    factor: float = Field(gt=0)


class OptimiserConfig(Config):
    """AdamW, its rates, and how a step goes through the encoder."""

    steps: int = Field(1_000, gt=0)
    learning_rate: float = Field(3e-5, gt=0)
    """At its peak; 3e-5 is the paper's for pretrained encoders, a scratch encoder wants some 1e-3."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    decay: Literal["linear", "cosine", "wsd", "none"] = "linear"
    """To zero at the last step; wsd stays at the peak until the last `decay_share` of the steps; none stays there."""
    rate_stages: tuple[RateStage, ...] = ()
    """Factors of the rate, each from its step on until the next; a schedule that a search found has some."""
    temperature_learning_rate: float | None = Field(None, gt=0)
    """Of a learned temperature, at its peak; null is `learning_rate`. A step moves log t by about the rate at most, so
    at 3e-5 a thousand steps hardly change it; 1e-3 lets it find its place."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """Of the steps; for wsd."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """The rate of a layer is that of the layer above it times this (1801.06146); embeddings have the lowest."""
    weight_decay: float = Field(0.01, ge=0)
    """Of matrices; biases, norms and the temperature have none."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    average: float | None = Field(None, gt=0, lt=1)
    """Decay of an average of the weights over the steps, such as 0.999; what is exported then is the average."""
    precision: Literal["auto", "bf16", "tf32", "fp32"] = "auto"
    """Of the encoder: auto is bf16 autocast on a GPU and fp32 elsewhere. TF32 is on only if it is asked for. Weights,
    similarities and the loss are fp32 always."""
    chunk_rows: int = Field(256, ge=0)
    """Texts that go through the encoder together at most; fewer where lengths differ. 0 sets no bound. The loss is the
    same. On a CPU 16 to 32 save most; so few at a time would leave a GPU idle."""
    activation_tokens: int | None = Field(65_536, ge=0)
    """Tokens whose activations wait for the backward pass; what is beyond goes through the encoder twice (gradient
    caching), so that memory does not grow with the batch. null keeps all, 0 none. The gradients are the same."""
    seed: int = 0
    """Of dropout."""


def rate(config: OptimiserConfig, step: int) -> float:
    """The learning rate of a step, before the factors of layers."""
    begun = [stage for stage in config.rate_stages if stage.from_step <= step]
    factor = max(begun, key=lambda stage: stage.from_step).factor if begun else 1.0
    return factor * _scheduled(config, step)


def _scheduled(config: OptimiserConfig, step: int) -> float:
    rise = config.warmup * config.steps
    if step < rise:
        return config.learning_rate * (step + 1) / (rise + 1)
    left = config.steps - step
    if config.decay == "linear":
        return config.learning_rate * left / (config.steps - rise)
    if config.decay == "cosine":
        return config.learning_rate * (1 - math.cos(math.pi * left / (config.steps - rise))) / 2
    if config.decay == "wsd":
        return config.learning_rate * min(1.0, left / min(config.decay_share * config.steps, config.steps - rise))
    return config.learning_rate


def make_optimiser(encoder: nn.Module, objective: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over what is trained of both: a group for every factor of the rate and kind of parameter."""
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    factors = layer_factors(encoder, config.layer_decay)
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            members.setdefault((factors[name], parameter.ndim > 1), []).append(parameter)
    # Norms and biases are vectors; to shrink them would change scales, not complexity.
    groups: list[dict[str, Any]] = [
        {"params": some, "factor": factor, "weight_decay": config.weight_decay if is_matrix else 0.0}
        for (factor, is_matrix), some in members.items()
    ]
    if trained := [parameter for parameter in objective.parameters() if parameter.requires_grad]:
        factor = (config.temperature_learning_rate or config.learning_rate) / config.learning_rate
        groups.append({"params": trained, "factor": factor, "weight_decay": 0.0})
    betas = config.beta1, config.beta2
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Bring back the moments; all else of `optimiser` stays as its configuration made it.

    torch would bring back the saved options as well, and so drop without a word what a continued run changes.

    Raises:
        ValueError: saved of an optimiser with other groups of parameters.
    """
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(saved)
    for group, own in zip(optimiser.param_groups, options, strict=True):
        group.update(own)


def set_rates(optimiser: torch.optim.Optimizer, config: OptimiserConfig, step: int) -> None:
    """Give every group its rate for the step."""
    for group in optimiser.param_groups:
        group["lr"] = rate(config, step) * group["factor"]


def layer_factors(encoder: nn.Module, layer_decay: float) -> dict[str, float]:
    """What each parameter's rate is multiplied by: 1 in the top layer and above it, less by `layer_decay` a layer."""
    prefix, num_layers = _layers(encoder)
    factors, height = {}, 0
    for name, _ in encoder.named_parameters():  # In the order of the forward pass: embeddings, layers, what follows.
        if num_layers and name.startswith(f"{prefix}."):
            height = int(name.removeprefix(f"{prefix}.").split(".")[0]) + 1
        elif height:
            height = num_layers
        factors[name] = layer_decay ** (num_layers - height) if num_layers else 1.0
    return factors


def _layers(encoder: nn.Module) -> tuple[str, int]:
    """Where the layers are, whatever a transformer calls them, and how many: the longest list of modules.

    Lists within a list are parts of a layer, such as its experts, and may be longer.
    """
    lists = {name: len(module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    longest = max(outer, key=lists.__getitem__, default="")
    return longest, lists.get(longest, 0)
