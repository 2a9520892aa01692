"""Configuration of validation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hbt_ray.config import Config, Languages
from hbt_ray.storage.location import Location
from hbt_ray.train.validation.early_stopping import StoppingRule


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

    @property
    def rule(self) -> StoppingRule:
        return StoppingRule(self.measure == "pool_loss", self.patience, self.min_delta)
