"""The settings of a search: the `search.` keys of `hbt tune`."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from hbt_ray.config import Config

Objective = Literal["AP", "mono_AP", "cross_AP", "RankDistance", "pool_loss"]
"""The measures of the dev set that validation records."""
OBJECTIVES: tuple[str, ...] = get_args(Objective)
LOWER_IS_BETTER = frozenset({"RankDistance", "pool_loss"})


def sign(objective: str) -> int:
    """-1 if lower values of the objective are better, else 1."""
    return -1 if objective in LOWER_IS_BETTER else 1


class Rungs(Config):
    """Asynchronous successive halving (ASHA, 1810.05934): at each rung only the best trials continue."""

    first: int = Field(gt=0)
    """Steps before the first rung. Each later rung is `reduction` times as far."""
    reduction: int = Field(3, gt=1)
    """One in this many trials continues at a rung."""


class SearchBudget(Config):
    """Limits at which a search ends, even if trials are left. A limit that is not set does not apply."""

    trials: int | None = Field(None, gt=0)
    """Number of trials."""
    steps: int | None = Field(None, gt=0)
    """Training steps of all trials together."""
    hours: float | None = Field(None, gt=0)
    """Hours of wall-clock time, over all sessions of the search."""
    gpu_hours: float | None = Field(None, gt=0)
    """GPU hours of all trials together."""


class TuneConfig(Config):
    """Settings of a search over a space."""

    algorithm: Literal["grid", "random", "optuna", "pbt"] = "grid"
    """grid: try every combination of the lists and draw from the domains. random: draw from the lists as well. optuna:
    earlier trials steer later ones, over all objectives (needs the extra `optuna`). pbt: train a population; after each
    segment the worst trials copy the weights of the best and change alpha or the learning rate (1711.09846)."""
    samples: int = Field(1, gt=0)
    """Number of draws, each with all seeds; for pbt the size of the population."""
    objectives: tuple[Objective, ...] = Field(("AP", "mono_AP", "cross_AP", "RankDistance"), min_length=1)
    """Measures to optimise. The first one decides at rungs, in populations and in the order of tables."""
    rungs: Rungs | None = None
    posthoc: tuple[Literal["centering", "lir", "shift"], ...] = ()
    """Post-hoc transforms of the vectors: each finished trial is measured again with each of them, as one more trial
    that needs no training. They are fitted to the training store."""
    segment: int | None = Field(None, gt=0)
    """Only for pbt: steps between two comparisons of the population, a multiple of the steps between validations."""
    concurrent: int | None = Field(None, gt=0)
    """Trials that run at the same time; by default as many as fit on the cluster when the search starts."""
    retries: int = Field(1, ge=0)
    """Number of times that a failed trial is started again from its last checkpoint."""
    budget: SearchBudget = SearchBudget()
    seed: int = 0
    """Seed for the draws and for the changes in a population."""

    @model_validator(mode="after")
    def _check_combinations(self) -> TuneConfig:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives names a measure twice; name each measure once")
        if self.algorithm == "pbt" and self.segment is None:
            raise ValueError("algorithm=pbt needs segment, the steps between two comparisons of the population")
        if self.algorithm != "pbt" and self.segment is not None:
            raise ValueError("segment applies only to algorithm=pbt; leave it out or set algorithm=pbt")
        if self.algorithm == "pbt" and self.rungs:
            raise ValueError("rungs stop trials that pbt would replace; leave out rungs or use another algorithm")
        return self
