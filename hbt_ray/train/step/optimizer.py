"""AdamW, its parameter groups, the learning rate of a step as a pure function of the configuration, and the EMA."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hbt_ray.config import Config
from hbt_ray.model.trainable_encoder import find_layers


class RateStage(Config):
    """A factor of the learning rate from a step on."""

    from_step: int = Field(ge=0)
    """First step that the factor applies to."""
    factor: float = Field(gt=0)
    """The learning rate of the schedule is multiplied by it."""


class OptimiserConfig(Config):
    """AdamW, its learning rate, and how a step goes through the encoder."""

    renamed_keys: ClassVar[dict[str, str]] = {"average": "ema"}

    steps: int = Field(1_000, gt=0)
    """Optimiser steps of the whole run. The learning rate reaches its end at the last one."""
    learning_rate: float = Field(3e-5, gt=0)
    """Peak learning rate. 3e-5 is the paper's for pretrained encoders; a scratch encoder needs about 1e-3."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises to its peak."""
    decay: Literal["linear", "cosine", "wsd", "none"] = "linear"
    """Schedule after warm-up: linear and cosine reach zero at the last step, wsd stays at the peak until the last
    `decay_share` of the steps, none stays there. linear is the paper's."""
    rate_stages: tuple[RateStage, ...] = ()
    """Factors of the learning rate, each from its step until the next. A search writes them here if it changed the rate
    during training; by default there are none."""
    temperature_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of a learned temperature; null takes `learning_rate`. A step moves log t by about the rate, so
    1,000 steps at 3e-5 hardly change it; 1e-3 lets it settle."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """Share of the steps over which wsd decays to zero."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer's learning rate is that of the layer above times this (1801.06146), and embeddings have the lowest. By
    default all are equal."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decay of matrices, torch's default. Biases, norms and the temperature have none."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the mean of gradients, torch's default."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay of the mean of squared gradients, torch's default."""
    epsilon: float = Field(1e-8, gt=0)
    """AdamW's addend to the denominator, torch's default."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients of a larger norm are scaled down to it. 1 is usual for transformers."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights over the steps, such as 0.999; the average is then what is
    exported. By default there is none."""
    precision: Literal["auto", "bf16", "tf32", "fp32"] = "auto"
    """Precision of the encoder's forward pass: auto is bf16 autocast on a GPU and fp32 elsewhere. TF32 is used only if
    asked for. Weights, similarities and the loss are always fp32."""
    chunk_rows: int = Field(256, ge=0)
    """Most texts of a micro-batch, which go through the encoder together; 0 for no bound. The loss is the same. 256
    keeps a GPU busy; on a CPU 16 to 32 save the most padding."""
    activation_tokens: int | None = Field(65_536, ge=0)
    """Tokens whose activations are kept for the backward pass; the texts beyond go through the encoder twice (gradient
    caching), so that memory does not grow with the batch. null keeps all, 0 none. The gradients are the same."""
    seed: int = 0
    """Seed for dropout."""


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Learning rate of a step, before the factors of layers."""
    active_stages = [stage for stage in config.rate_stages if stage.from_step <= step]
    factor = max(active_stages, key=lambda stage: stage.from_step).factor if active_stages else 1.0
    return factor * _scheduled_rate(config, step)


def _scheduled_rate(config: OptimiserConfig, step: int) -> float:
    warmup_steps = config.warmup * config.steps
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / (warmup_steps + 1)  # + 1: above zero at step 0.
    # left / decay_steps falls from 1 at the peak to 0.
    left, decay_steps = config.steps - step, config.steps - warmup_steps
    if config.decay == "linear":
        return config.learning_rate * left / decay_steps
    if config.decay == "cosine":
        return config.learning_rate * (1 - math.cos(math.pi * left / decay_steps)) / 2
    if config.decay == "wsd":
        return config.learning_rate * min(1.0, left / min(config.decay_share * config.steps, decay_steps))
    return config.learning_rate


def make_optimiser(encoder: nn.Module, objective: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over the trained parameters of both, with a group for each (rate factor, is a matrix)."""
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    factors = layer_factors(encoder, config.layer_decay)
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            members.setdefault((factors[name], parameter.ndim > 1), []).append(parameter)
    # Norms and biases are vectors. Decaying them would change scales without making the model simpler.
    groups: list[dict[str, Any]] = [
        {"params": parameters, "factor": factor, "weight_decay": config.weight_decay if is_matrix else 0.0}
        for (factor, is_matrix), parameters in members.items()
    ]
    if parameters := [parameter for parameter in objective.parameters() if parameter.requires_grad]:
        factor = (config.temperature_learning_rate or config.learning_rate) / config.learning_rate
        groups.append({"params": parameters, "factor": factor, "weight_decay": 0.0})
    # The learning rate here is a placeholder: `set_learning_rates` sets that of every step and group.
    betas = config.beta1, config.beta2
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the moments of a saved state; the options of `optimiser` stay as its configuration made them.

    `load_state_dict` would restore the saved options too, and silently undo what a continued run changes.
    """
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(saved)
    for group, group_options in zip(optimiser.param_groups, options, strict=True):
        group.update(group_options)


def set_learning_rates(optimiser: torch.optim.Optimizer, config: OptimiserConfig, step: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(config, step) * group["factor"]


def layer_factors(encoder: nn.Module, layer_decay: float) -> dict[str, float]:
    """Parameter name → factor of its learning rate: 1 in the top layer, times `layer_decay` for each layer below."""
    prefix, layers = find_layers(encoder)
    num_layers, height = len(layers), 0  # height: 0 for embeddings, i + 1 for layer i, num_layers for the head
    factors = {}
    for name, _ in encoder.named_parameters():  # In the order of the forward pass: embeddings, layers, head.
        if num_layers and name.startswith(f"{prefix}."):
            height = int(name.removeprefix(f"{prefix}.").split(".")[0]) + 1
        elif height:
            height = num_layers
        factors[name] = layer_decay ** (num_layers - height) if num_layers else 1.0
    return factors


class Ema:
    """Exponential moving average of the weights: often better than the last weights, without a decaying rate.

        average ← d · average + (1 - d) · weights          d = min(decay, (1 + n) / (10 + n)) at the n-th update

    The smaller d of the first updates forgets the random start, as TensorFlow's ExponentialMovingAverage does with
    `num_updates`. 2410.21676 trains at a constant rate (`decay: none`) and evaluates such an average, so that one run
    serves every number of steps. Only trained parameters are averaged, in their own type: a frozen encoder below
    adapters needs no second copy.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self._decay, self.num_updates = decay, 0
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in encoder.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = dict(encoder.named_parameters())
        current = [parameters[name].detach() for name in self.values]
        # One fused operation over all tensors. Its third argument, the count of models, is unused.
        get_ema_multi_avg_fn(decay)(list(self.values.values()), current, None)
        self.num_updates += 1

    def load(self, values: dict[str, Tensor], num_updates: int) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])
        self.num_updates = num_updates
