"""The objective: InfoNCE, and whatever terms the configuration adds to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hbt_ray.errors import ConfigError
from hbt_ray.train.loss.config import LossConfig
from hbt_ray.train.loss.encoded import Encoded
from hbt_ray.train.loss.info_nce import info_nce

_SHARPEST = math.log(100.0)
"""CLIP's bound on the learned scale 1 / t: beyond it training becomes unstable."""


class Objective(nn.Module):
    """What training minimises.

    Args:
        width: of the encoder's vectors, where it is known.

    Raises:
        ConfigError: a Matryoshka prefix is as wide as the vectors, or wider.
    """

    def __init__(self, config: LossConfig, width: int | None = None) -> None:
        super().__init__()
        if width and any(prefix >= width for prefix in config.dimensions):
            raise ConfigError(
                f"loss.dimensions={list(config.dimensions)}: the encoder's vectors have {width} numbers, and the whole "
                f"is always trained; name widths below {width}"
            )
        self.config = config
        first = torch.tensor(-math.log(config.temperature))
        self.log_scale = nn.Parameter(first) if config.learn_temperature else None

    @property
    def temperature(self) -> float | Tensor:
        """A scalar with a gradient where it is learned."""
        return self.config.temperature if self.log_scale is None else (-self.log_scale.clamp(max=_SHARPEST)).exp()

    def parts(self, encoded: Encoded, sizes: Sequence[int]) -> dict[str, Tensor]:
        """This rank's parts of the global mean loss, by name, weighted; over all names and ranks they sum to it.

        Args:
            sizes: rows of every rank, in rank order.
        """
        config, temperature = self.config, self.temperature
        loss = info_nce(
            encoded.questions,
            encoded.passages,
            encoded.keys,
            temperature,
            sizes,
            encoded.mined,
            symmetric=config.symmetric,
            dimensions=config.dimensions,
            tile=config.tile,
        )
        return {"info_nce": loss}

    def forward(self, encoded: Encoded, sizes: Sequence[int]) -> Tensor:
        """The sum of the parts."""
        return torch.stack(list(self.parts(encoded, sizes).values())).sum()
