"""Configuration of the batch plan, and alpha: the share of monolingual batches, constant or changing with the steps.

The arithmetic of alpha is exact, so the bound holds at any step: in every window the number of monolingual batches
differs from the sum of alpha over its steps by less than 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from hbt_ray.config import Config, Languages
from hbt_ray.data.plan.interleave import BalancedSplit, Split

Share = Annotated[float, Field(ge=0, le=1)]


class Ramp(Config):
    """Alpha that changes linearly from `start` to `end` over `steps`, then stays at `end`."""

    start: Share
    """Share of monolingual batches at step 0."""
    end: Share
    """Share of monolingual batches from step `steps` on."""
    steps: int = Field(gt=0)
    """Number of steps over which the share changes."""

    def total(self, steps: int) -> Fraction:
        """The sum of alpha over the first `steps` steps."""
        start, end = Fraction(self.start), Fraction(self.end)
        within = min(steps, self.steps)
        slope = (end - start) / self.steps
        # Arithmetic series: step t < `within` has alpha start + slope · t.
        return within * start + slope * (within * (within - 1) // 2) + (steps - within) * end

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g}"


class Stage(Config):
    """A constant alpha from a step on."""

    from_step: int = Field(ge=0)
    """First step of the stage."""
    alpha: Share
    """Share of monolingual batches during the stage."""


class Stages(Config):
    """Alpha that is constant within each of several stages."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    """Stages in ascending order of `from_step`; the first one starts at step 0, the last one has no end."""

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if stages[0].from_step or any(stage.from_step >= later.from_step for stage, later in pairwise(stages)):
            raise ValueError("the first stage must have from_step: 0, and each later stage a larger from_step")
        return stages

    def spans(self, steps: int) -> list[tuple[int, Stage]]:
        """The number of steps of each stage among the first `steps`, with the stage."""
        # The last stage has no end; `max` keeps its span from being negative.
        ends = [stage.from_step for stage in self.stages[1:]] + [max(steps, self.stages[-1].from_step)]
        return [
            (max(0, min(steps, end) - stage.from_step), stage) for stage, end in zip(self.stages, ends, strict=True)
        ]

    def total(self, steps: int) -> Fraction:
        """The sum of alpha over the first `steps` steps."""
        return sum((span * Fraction(stage.alpha) for span, stage in self.spans(steps)), Fraction(0))

    def __str__(self) -> str:
        return ", then ".join(f"{stage.alpha:g}" for stage in self.stages)


def _form(value: Any) -> str:
    """Tag of the form of alpha, for values from a file (dicts) and for parsed ones."""
    if isinstance(value, Stages) or (isinstance(value, dict) and "stages" in value):
        return "stages"
    return "ramp" if isinstance(value, Ramp | dict) else "number"


# The discriminator chooses the form by the value's type, so that an error is about one form and not about all three.
Alpha = Annotated[
    Annotated[Share, Tag("number")] | Annotated[Ramp, Tag("ramp")] | Annotated[Stages, Tag("stages")],
    Discriminator(_form),
]


class PlanConfig(Config):
    """Composition of the batches."""

    policy: Literal["mono", "cross", "hybrid", "mixed"] = "hybrid"
    """Kinds of batches. mono: one language per batch; cross: question and passage in different languages; hybrid: both
    kinds, in the ratio of alpha; mixed: same-language rows of many languages in one batch (LAReQA's X-X, a control
    known to be bad)."""
    alpha: Alpha = 0.5
    """Share of monolingual batches; hybrid only. A number, {start, end, steps} or {stages: [{from_step, alpha}, …]}."""
    cross: Literal["rows", "pair"] = "rows"
    """Cross-lingual batches. rows: every row draws its own ordered pair of languages, as in the paper; pair: one
    ordered pair for the whole batch."""
    batch_size: int = Field(64, gt=0)
    """Number of rows of a global batch, which is one optimiser step over all ranks."""
    languages: Languages = ()
    """Languages to train on. Empty: all languages of the store."""
    dataset_exponent: float = Field(1.0, ge=0)
    """A dataset is drawn in proportion to items ** exponent; 1 draws every item equally often."""
    dataset_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Factor on the share of a dataset, by its name; 1 for datasets that are not listed, 0 leaves one out."""
    language_exponent: float = Field(0.0, ge=0)
    """A language is drawn in proportion to items ** exponent; 0 is uniform, as in the paper."""
    run_length: int = Field(1, gt=0)
    """Number of consecutive rows that the shuffle keeps together, for range reads from remote storage. 1: a perfect
    shuffle."""
    negatives: int = Field(0, ge=0)
    """Number of mined negatives per row, from the folder `negatives` of the run. The loss of each row uses the
    negatives of all rows. 0: none."""
    seed: int = 0
    """Seed for the order of languages, datasets and rows."""

    @property
    def mono_share(self) -> Alpha:
        return {"mono": 1.0, "cross": 0.0, "mixed": 0.0, "hybrid": self.alpha}[self.policy]

    def __str__(self) -> str:
        alpha = f"{self.alpha:g}" if isinstance(self.alpha, float) else str(self.alpha)
        return f"hybrid({alpha})" if self.policy == "hybrid" else self.policy


def alpha_values(alpha: Alpha) -> tuple[float, ...]:
    """The values that bound alpha: its constant value, both ends of a ramp, or the values of the stages."""
    if isinstance(alpha, Ramp):
        return alpha.start, alpha.end
    return tuple(stage.alpha for stage in alpha.stages) if isinstance(alpha, Stages) else (alpha,)


def alpha_before(alpha: Alpha, step: int) -> Any:
    """The part of alpha that determines the first `step` steps; equal if these have the same batches."""
    if isinstance(alpha, Ramp):
        return alpha
    if isinstance(alpha, Stages):
        return tuple((stage.from_step, stage.alpha) for stage in alpha.stages if stage.from_step < step)
    # A constant equals a single stage from step 0 on; before step 0 there is nothing to compare.
    return ((0, alpha),)[:step]


def alpha_split(alpha: Alpha, key: int) -> Split:
    """Split of the steps: left is monolingual, right is the other kind."""
    if isinstance(alpha, Ramp | Stages):
        return _VaryingSplit(alpha, Fraction(key, 2**64))
    # The exact value of the float: a rounded one would break the bound in long runs.
    share = Fraction(alpha)
    return BalancedSplit.of_key(share.numerator, share.denominator, key)


@dataclass(frozen=True, slots=True)
class _VaryingSplit:
    """A balanced split whose rate changes with the steps."""

    alpha: Ramp | Stages
    phase: Fraction

    def count(self, turns: int) -> int:
        # `int` is the floor of a fraction that is not negative.
        return int(self.alpha.total(turns) + self.phase)
