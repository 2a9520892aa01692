"""The configuration of the objective."""

from __future__ import annotations

from pydantic import Field, field_validator

from hbt_ray.config import Config


class LossConfig(Config):
    """The contrastive loss, and what is added to it."""

    temperature: float = Field(0.05, gt=0)
    """Cosines are divided by it; smaller is sharper. Where it is learned, the first value."""
    learn_temperature: bool = False
    """Its logarithm becomes a parameter, as in CLIP (2103.00020), kept at 0.01 or above."""
    symmetric: bool = False
    """Half of the loss asks each passage for its question, among all questions of the batch."""
    dimensions: tuple[int, ...] = ()
    """Matryoshka (2205.13147): prefixes of the vectors that are to work by themselves, beside the whole."""
    tile: int = Field(2_048, gt=0)
    """Rows and columns of the similarity matrix that are in memory at once."""

    @field_validator("dimensions")
    @classmethod
    def _rising(cls, dimensions: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in dimensions) or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"widths are different numbers above 0, not {list(dimensions)}")
        return dimensions
