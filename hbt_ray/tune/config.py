"""The settings of a search: what `hbt tune --search KEY=VALUE` changes."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from hbt_ray.config import Config

Objective = Literal["AP", "mono_AP", "cross_AP", "RankDistance", "pool_loss"]
"""Measures of the dev store, as validation records them."""
LOWER_IS_BETTER = frozenset({"RankDistance", "pool_loss"})


def mode(objective: str) -> str:
    """`min` or `max`, as Ray Tune has it."""
    return "min" if objective in LOWER_IS_BETTER else "max"


class Rungs(Config):
    """Successive halving without waiting (ASHA, 1810.05934): at every rung only the best go on."""

    first: int = Field(gt=0)
    """Steps before the first rung; the next ones are `reduction` times as far, each."""
    reduction: int = Field(3, gt=1)
    """One of so many goes on."""


class SearchBudget(Config):
    """Where a search ends, whatever is left of it; what is not set has no bound."""

    trials: int | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    """Of all trials together."""
    hours: float | None = Field(None, gt=0)
    """Of the clock, in all sessions together."""
    gpu_hours: float | None = Field(None, gt=0)


class TuneConfig(Config):
    """How a space is searched."""

    algorithm: Literal["grid", "random", "optuna", "pbt"] = "grid"
    """grid: every combination of lists, domains are drawn from. random: lists are drawn from as well. optuna: what was
    found steers what is tried, over all objectives (extra `optuna`). pbt: a population trains, and at every segment the
    worst take over weights of the best and change alpha or the learning rate (1711.09846)."""
    samples: int = Field(1, gt=0)
    """Draws, each with all seeds; for pbt the population."""
    objectives: tuple[Objective, ...] = Field(("AP", "mono_AP", "cross_AP", "RankDistance"), min_length=1)
    """The first one decides where one must: for rungs, populations and the order of tables."""
    rungs: Rungs | None = None
    posthoc: tuple[Literal["centering", "lir", "shift"], ...] = ()
    """Fixes after training: each trial that ends by itself is measured again with each of them, as one more trial that
    costs no training. They learn from the store that is trained on."""
    segment: int | None = Field(None, gt=0)
    """Of pbt: steps between two looks at the others, a multiple of what is between validations."""
    concurrent: int | None = Field(None, gt=0)
    """Trials at a time; default: as many as the cluster has room for when the search begins."""
    retries: int = Field(1, ge=0)
    """How often a trial that failed is tried again, from its last checkpoint."""
    budget: SearchBudget = SearchBudget()
    seed: int = 0
    """Of draws and of the population's changes."""

    @model_validator(mode="after")
    def _fitting(self) -> TuneConfig:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives has one twice; name each once")
        if self.algorithm == "pbt" and self.segment is None:
            raise ValueError("algorithm=pbt needs segment, the steps between two looks at the others")
        if self.algorithm != "pbt" and self.segment is not None:
            raise ValueError("segment is of algorithm=pbt")
        if self.algorithm == "pbt" and self.rungs:
            raise ValueError("rungs end trials and pbt replaces them; leave out one of the two")
        return self


OBJECTIVES: tuple[str, ...] = get_args(Objective)
