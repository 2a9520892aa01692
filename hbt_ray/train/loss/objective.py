"""The objective: InfoNCE, and whatever terms the configuration adds to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hbt_ray.errors import ConfigError
from hbt_ray.train.loss.config import SHARPEST, LossConfig
from hbt_ray.train.loss.info_nce import info_nce
from hbt_ray.train.loss.inputs import LossInputs

_LARGEST = -math.log(SHARPEST)


class Objective(nn.Module):
    """What training minimises. Its only possible parameter is -log t, of a learned temperature t.

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
        return self.config.temperature if self.log_scale is None else (-self.log_scale.clamp(max=_LARGEST)).exp()

    def parts(self, encoded: LossInputs, sizes: Sequence[int]) -> dict[str, Tensor]:
        """This rank's parts of the global mean loss, by name, weighted; over all names and ranks they sum to it.

        The gradient of the temperature is this rank's part too, to be summed over the ranks like the others.

        Args:
            sizes: rows of every rank, in rank order.
        """
        if self.log_scale is not None:
            # The parameter itself comes back to the bound: beyond it the gradient would be zero for ever.
            with torch.no_grad():
                self.log_scale.clamp_(max=_LARGEST)
        config, temperature = self.config, self.temperature
        parts = {
            "info_nce": info_nce(
                encoded.questions,
                encoded.passages,
                encoded.right_keys,
                temperature,
                sizes,
                encoded.mined,
                symmetric=config.symmetric,
                dimensions=config.dimensions,
                tile=config.tile,
            )
        }
        # Terms that compare distributions would be lowest where all are flat, so they do not move the temperature.
        given = temperature.detach() if isinstance(temperature, Tensor) else temperature
        for name, term in config.terms.items():
            parts[name] = term.weight * term.part(encoded, sizes, given)
        return parts

    def forward(self, encoded: LossInputs, sizes: Sequence[int]) -> Tensor:
        """The sum of the parts."""
        return torch.stack(list(self.parts(encoded, sizes).values())).sum()
