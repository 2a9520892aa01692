"""Exponential moving average (EMA) of the weights: often better than the last weights, without a decaying rate.

    average ← d · average + (1 - d) · weights          d = min(decay, (1 + n) / (10 + n)) at the n-th update

The smaller d of the first updates forgets the random start, as TensorFlow's ExponentialMovingAverage does with
`num_updates`. 2410.21676 trains at a constant rate (`decay: none`) and evaluates such an average, so that one run
serves every number of steps. Only trained parameters are averaged: a frozen encoder below adapters needs no second
copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Averages of an encoder's trained parameters, in their own type: encoders are trained in float32."""

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self._decay, self.num_updates = decay, 0
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in encoder.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Average in the encoder's current weights."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = dict(encoder.named_parameters())
        current = [parameters[name].detach() for name in self.values]
        get_ema_multi_avg_fn(decay)(list(self.values.values()), current, None)
        self.num_updates += 1

    def load(self, values: dict[str, Tensor], num_updates: int) -> None:
        """Continue from saved averages."""
        for name, value in self.values.items():
            value.copy_(values[name])
        self.num_updates = num_updates
