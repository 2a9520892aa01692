"""Configuration of validation, and early stopping as pure functions of steps.

Validations run beside training, so a result comes some time after its checkpoint. The decision at checkpoint k uses
only results up to k - lag, even if later ones have arrived. So a run that is repeated, or killed and continued, stops
at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hbt_ray.config import Config, Languages
from hbt_ray.storage.location import Location


class ValidationConfig(Config):
    """Checkpoints are measured on a dev store beside training. Without a store there is no validation."""

    store: Location | None = None
    """Store of `hbt prepare` that shares no items with the training store or with the evaluation data."""
    measure: Literal["AP", "pool_loss"] = "AP"
    """Measure that chooses the best checkpoint. AP: mean average precision in the pool of all languages. pool_loss:
    InfoNCE over that pool. Neither depends on the batch, as the training loss does; both are recorded."""
    items: int = Field(512, gt=0)
    """Number of questions, spread evenly over data sets and languages. Their passages are used in every language."""
    languages: Languages = ()
    """Languages of questions and passages; by default all languages of the dev store."""
    temperature: float = Field(0.05, gt=0)
    """Temperature of pool_loss. It is fixed, so that a learned temperature of training does not change the measure."""
    seed: int = 0
    """Seed for the choice of questions."""
    every: int | None = Field(None, gt=0)
    """Steps between validations, a multiple of checkpoints.every; by default every checkpoint is validated."""
    patience: int | None = Field(None, gt=0)
    """Training stops after this many consecutive validations without an improvement; by default it does not."""
    min_delta: float = Field(0.0, ge=0)
    """Smallest difference that counts as an improvement."""
    lag: int = Field(1, ge=0)
    """A checkpoint's decision to stop uses the results up to this many checkpoints before it, and waits for them. With
    1 a validation has until the next checkpoint; with 0 training waits for every validation."""
    export: Literal["best", "last"] = "best"
    """Checkpoint whose weights become the run's model."""
    cpus: float = Field(0, ge=0)
    """Logical CPUs that a validation reserves. With 0 it also runs if the workers hold all CPUs."""
    gpu: bool = False
    """Whether a validation reserves a GPU in addition to those of the workers."""
    timeout_seconds: float = Field(1_800, gt=0)
    """A validation that takes longer ends the run with an error; the checkpoint is kept."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingState:
    """Outcome of the validations so far."""

    best: int | None = None
    """Step of the best value, the first of equal ones; None without a validation."""
    waited: int = 0
    """Validations since the last improvement of `min_delta` or more."""
    stop: bool = False
    """Whether patience is exhausted."""


@dataclass(frozen=True, slots=True)
class ValidationSchedule:
    """The steps that are validated, and the results that a decision may use."""

    every: int
    last: int
    """Last step of the run. It is validated even if it is not a multiple of `every`."""
    lag: int = 1

    def due(self, step: int) -> bool:
        return step > 0 and (step % self.every == 0 or step == self.last)

    def horizon(self, step: int) -> int:
        """Last step whose result is used at `step`; 0 or less if none is."""
        return (step // self.every - self.lag) * self.every

    def visible(self, values: Mapping[int, float], step: int) -> dict[int, float]:
        """The results that are used at `step`.

        Checkpoints that are not on the grid (the last step, one made at a preemption) are not used: a run without them
        must stop at the same step.
        """
        horizon = self.horizon(step)
        return {at: value for at, value in values.items() if at <= horizon and at % self.every == 0}


def early_stopping_state(values: Mapping[int, float], config: ValidationConfig) -> EarlyStoppingState:
    """The best step, and whether patience is exhausted; `values` are step → finite value of `config.measure`."""
    sign = 1.0 if config.measure == "pool_loss" else -1.0
    best: tuple[float, int] | None = None
    reference, waited = float("inf"), 0
    for step in sorted(values):
        cost = sign * values[step]
        if best is None or cost < best[0]:
            best = cost, step
        # The reference of patience moves by `min_delta` or more; the best step is that of the lowest cost.
        if cost < reference and reference - cost >= config.min_delta:
            reference, waited = cost, 0
        else:
            waited += 1
    stop = config.patience is not None and waited >= config.patience
    return EarlyStoppingState(best[1] if best else None, waited, stop)
