"""The configuration of the objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, Self, runtime_checkable

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from hbt_ray.config import Config
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.terms import Alignment, Distillation, Erasure, Imitation, Lakda

SHARPEST = 0.01
"""Bound of a learned temperature, as in CLIP (2103.00020), whose scale 1 / t stays at or below 100: beyond it training
becomes unstable, as a sharper softmax is the cheapest way to lower the loss of rows that are right already."""


@runtime_checkable
class Term(Protocol):
    """What can be added to the contrastive loss: a configuration that is also the function."""

    weight: float
    needs: ClassVar[frozenset[str]]
    """Names of the optional fields of `LossInputs` that it looks at."""

    def part(self, encoded: LossInputs, sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's part of the term, unweighted; the parts of all ranks sum to the value of one process."""


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
    """Rows and columns of the similarity matrix that are in memory at once. The loss is the same."""

    lakda: Lakda | None = None
    alignment: Alignment | None = None
    erasure: Erasure | None = None
    imitation: Imitation | None = None
    distillation: Distillation | None = None
    """Terms that are added (`hbt_ray.train.loss.terms`), such as `lakda: {weight: 1}`."""
    versions: str = "other"
    """The language of the second version that lakda and alignment compare with: other (any that the item has, drawn
    evenly) or pivot:LANG (LANG, and another where the row is in LANG)."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the optional fields of `LossInputs` that the terms look at."""
        return frozenset().union(*(term.needs for term in self.terms.values()))

    @property
    def terms(self) -> dict[str, Term]:
        """What is added, by the names of the fields that hold it."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Term)}

    @field_validator("dimensions")
    @classmethod
    def _different(cls, dimensions: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in dimensions) or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"widths are different numbers above 0, not {list(dimensions)}")
        return dimensions

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.learn_temperature and self.temperature < SHARPEST:
            raise ValueError(
                f"a learned temperature stays at {SHARPEST} or above, so it cannot begin at {self.temperature}; "
                f"begin at {SHARPEST} or above, or fix it with learn_temperature=false"
            )
        return self
