"""Alpha, the share of monolingual batches: constant, a ramp, or stages over the steps.

All arithmetic is exact, so the balanced schedule keeps its bound at any step: in every window the monolingual batches
differ from the sum of alpha over its steps by less than 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator

from hbt_ray.config import Config
from hbt_ray.data.index.permutation import make_key
from hbt_ray.data.plan.interleave import BalancedSplit, Kind, RandomSplit, Split
from hbt_ray.errors import PlanError

Share = Annotated[float, Field(ge=0, le=1)]


class Ramp(Config):
    """From `start` to `end` in a straight line over `steps`, then `end`."""

    start: Share
    end: Share
    steps: int = Field(gt=0)

    def total(self, steps: int) -> Fraction:
        """The sum of alpha over the first `steps` steps."""
        start, end = Fraction(self.start), Fraction(self.end)
        within = min(steps, self.steps)
        slope = (end - start) / self.steps
        return within * start + slope * (within * (within - 1) // 2) + (steps - within) * end

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g}"


class Stage(Config):
    """One value from a step on."""

    from_step: int = Field(ge=0)
    alpha: Share


class Stages(Config):
    """One value after the other."""

    stages: tuple[Stage, ...] = Field(min_length=1)

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if stages[0].from_step or any(one.from_step >= other.from_step for one, other in pairwise(stages)):
            raise ValueError("the first stage begins at from_step: 0, and every other one later than the one before")
        return stages

    def spans(self, steps: int) -> list[tuple[int, Stage]]:
        """How many of the first `steps` steps each stage has."""
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
    if isinstance(value, Stages) or (isinstance(value, dict) and "stages" in value):
        return "stages"
    return "ramp" if isinstance(value, Ramp | dict) else "number"


# The form is told by its look, so that an error speaks of one form and not of all three.
Alpha = Annotated[
    Annotated[Share, Tag("number")] | Annotated[Ramp, Tag("ramp")] | Annotated[Stages, Tag("stages")],
    Discriminator(_form),
]


def alpha_values(alpha: Alpha) -> tuple[float, ...]:
    """The values between which alpha moves."""
    if isinstance(alpha, Ramp):
        return alpha.start, alpha.end
    return tuple(stage.alpha for stage in alpha.stages) if isinstance(alpha, Stages) else (alpha,)


def alpha_before(alpha: Alpha, step: int, kind: Kind) -> Any:
    """What of it decides the first `step` steps; equal where these have the same batches."""
    if isinstance(alpha, Ramp):
        return alpha
    if isinstance(alpha, Stages):
        return tuple((stage.from_step, stage.alpha) for stage in alpha.stages if stage.from_step < step)
    # Independent draws start anew with every stage, so a single stage draws others than no stage.
    return ((0, alpha),)[:step] if kind == "balanced" else alpha


def alpha_split(alpha: Alpha, kind: Kind, key: int) -> Split:
    """Which steps are monolingual (left).

    Raises:
        PlanError: a ramp with independent draws, whose counts would need all draws before.
    """
    if not isinstance(alpha, Ramp | Stages):
        share = Fraction(alpha)
        if kind == "random":
            return RandomSplit(share.numerator, share.denominator, key)
        return BalancedSplit(share.numerator, share.denominator, phase=share.denominator * key >> 64)
    if kind == "balanced":
        return _MovingSplit(alpha, Fraction(key, 2**64))
    if isinstance(alpha, Stages):
        return _StagedDraws(alpha, key)
    raise PlanError("plan.schedule=random cannot follow a ramp of plan.alpha; use schedule=balanced, or stages")


@dataclass(frozen=True, slots=True)
class _MovingSplit:
    alpha: Ramp | Stages
    phase: Fraction

    def count(self, turns: int) -> int:
        return int(self.alpha.total(turns) + self.phase)


@dataclass(frozen=True, slots=True)
class _StagedDraws:
    """Independent draws, a sequence of its own for every stage."""

    alpha: Stages
    key: int

    def count(self, turns: int) -> int:
        return sum(
            alpha_split(stage.alpha, "random", make_key(self.key, stage.from_step)).count(span)
            for span, stage in self.alpha.spans(turns)
        )
