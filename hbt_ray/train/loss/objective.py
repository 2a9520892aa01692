"""The objective of training: InfoNCE plus the terms that the configuration adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from hbt_ray.config import Config
from hbt_ray.errors import ConfigError
from hbt_ray.train.loss.info_nce import info_nce
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.terms import Alignment, Distillation, Erasure, Imitation, Lakda, Term

MIN_LEARNED_TEMPERATURE = 0.01
"""Bound of a learned temperature, as in CLIP (2103.00020), whose scale 1 / t stays at or below 100. Beyond it training
becomes unstable: a sharper softmax is the cheapest way to lower the loss of rows that are ranked right already."""
_MAX_LOG_SCALE = -math.log(MIN_LEARNED_TEMPERATURE)


class LossConfig(Config):
    """The contrastive loss and the terms that are added to it."""

    renamed_keys: ClassVar[dict[str, str]] = {"versions": "translations"}

    temperature: float = Field(0.05, gt=0)
    """Cosines are divided by it: smaller values make the softmax sharper. A learned temperature starts here."""
    learn_temperature: bool = False
    """Learn the logarithm of the temperature, as in CLIP (2103.00020), bounded below by 0.01."""
    symmetric: bool = False
    """Average the loss question → passage with the loss passage → question, over all questions of the batch."""
    dimensions: tuple[int, ...] = ()
    """Matryoshka (2205.13147): widths of vector prefixes that are trained beside the whole vector. By default none."""
    tile: int = Field(2_048, gt=0)
    """Rows and columns of the similarity matrix in memory at once. The loss is the same for any value; 2,048 take 16
    MiB."""

    lakda: Lakda | None = None
    """Term: a question ranks passages alike in two languages, such as `lakda: {weight: 1}`. By default off."""
    alignment: Alignment | None = None
    """Term: a passage has the same vector in two languages. By default off."""
    erasure: Erasure | None = None
    """Term: vectors are not correlated with the language. By default off."""
    imitation: Imitation | None = None
    """Term: vectors lie where the teacher puts the text in its language; needs `teacher`. By default off."""
    distillation: Distillation | None = None
    """Term: candidates get the probabilities of the teacher that scored the mined negatives. By default off."""
    translations: str = "other"
    """Language of the translation that lakda and alignment compare with: other (another language of the item, drawn
    evenly) or pivot:LANG (LANG, and another one if the row is in LANG)."""

    @property
    def required_inputs(self) -> frozenset[str]:
        """Names of the optional fields of `LossInputs` that the terms read."""
        return frozenset().union(*(term.required_inputs for term in self.terms.values()))

    @property
    def terms(self) -> dict[str, Term]:
        """The configured terms by the names of their keys."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Term)}

    @field_validator("dimensions")
    @classmethod
    def _require_distinct_widths(cls, dimensions: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in dimensions) or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"widths must be distinct numbers above 0, not {list(dimensions)}")
        return dimensions

    @model_validator(mode="after")
    def _require_bounded_temperature(self) -> Self:
        if self.learn_temperature and self.temperature < MIN_LEARNED_TEMPERATURE:
            raise ValueError(
                f"a learned temperature stays at {MIN_LEARNED_TEMPERATURE} or above, so it cannot start at "
                f"{self.temperature}; start at {MIN_LEARNED_TEMPERATURE} or above, or set learn_temperature=false"
            )
        return self


class Objective(nn.Module):
    """The function that training minimises. Its only parameter is -log t, if the temperature t is learned.

    Args:
        width: width of the encoder's vectors, to check `dimensions` against; None skips the check.

    Raises:
        ConfigError: a Matryoshka prefix is as wide as the vectors, or wider.
    """

    def __init__(self, config: LossConfig, width: int | None = None) -> None:
        super().__init__()
        if width and any(prefix >= width for prefix in config.dimensions):
            raise ConfigError(
                f"loss.dimensions={list(config.dimensions)}: the encoder's vectors have {width} numbers, and the whole "
                f"vector is always trained; use widths below {width}",
                code="PREFIX_TOO_WIDE",
            )
        self.config = config
        log_scale = torch.tensor(-math.log(config.temperature))
        self.log_scale = nn.Parameter(log_scale) if config.learn_temperature else None

    @property
    def temperature(self) -> float | Tensor:
        """A number, or a scalar tensor with a gradient if the temperature is learned."""
        return self.config.temperature if self.log_scale is None else (-self.log_scale.clamp(max=_MAX_LOG_SCALE)).exp()

    def rank_losses(self, inputs: LossInputs, rank_sizes: Sequence[int]) -> dict[str, Tensor]:
        """This rank's shares of the global mean loss by name, weighted; over all names and ranks they sum to it.

        The gradient of the temperature is this rank's share too, to be summed over the ranks.
        """
        if self.log_scale is not None:
            # Clamp in place: beyond the bound the clamp's gradient is zero and the parameter could not return.
            with torch.no_grad():
                self.log_scale.clamp_(max=_MAX_LOG_SCALE)
        config, temperature = self.config, self.temperature
        losses = {
            "info_nce": info_nce(
                inputs.questions,
                inputs.passages,
                inputs.positive_keys,
                temperature,
                rank_sizes,
                inputs.hard_negatives,
                symmetric=config.symmetric,
                dimensions=config.dimensions,
                tile=config.tile,
            )
        }
        # Terms that compare distributions are lowest if all are flat, so they must not move the temperature.
        if isinstance(temperature, Tensor):
            temperature = temperature.detach()
        for name, term in config.terms.items():
            losses[name] = term.weight * term.rank_loss(inputs, rank_sizes, temperature)
        return losses

    # For callers that need no parts, such as tests; `TrainStep` calls `rank_losses`.
    def forward(self, inputs: LossInputs, rank_sizes: Sequence[int]) -> Tensor:
        return torch.stack(list(self.rank_losses(inputs, rank_sizes).values())).sum()
