"""What a run is validated on, and what follows from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hbt_ray.config import Config, Languages
from hbt_ray.storage.location import Location
from hbt_ray.train.validation.early_stopping import StoppingRule


class ValidationConfig(Config):
    """Checkpoints are judged on a dev store, beside training; without a store there is no validation."""

    store: Location | None = None
    """A store of `hbt prepare` that shares no items with the training store or with what the model is judged on."""
    measure: Literal["AP", "pool_loss"] = "AP"
    """Names the best checkpoint. AP: mean average precision in the pool of all languages. pool_loss: InfoNCE over that
    pool. Neither depends on the batch, as the training loss does; both are recorded."""
    items: int = Field(512, gt=0)
    """Questions, spread evenly over data sets and languages. The pool holds their passages in every language."""
    languages: Languages = ()
    """Of questions and passages; by default all that the dev store has."""
    temperature: float = Field(0.05, gt=0)
    """Of pool_loss; fixed, so that a learned temperature of the training loss does not move the measure."""
    seed: int = 0
    """Of the sample."""
    every: int | None = Field(None, gt=0)
    """Steps between validations, a multiple of checkpoints.every; by default every checkpoint is validated."""
    patience: int | None = Field(None, gt=0)
    """So many validations in a row without an improvement end the training; by default none do."""
    min_delta: float = Field(0.0, ge=0)
    """An improvement is at least so large."""
    lag: int = Field(1, ge=0)
    """At a validated checkpoint the ranks decide by the results of so many before it, and wait for those: 1 gives a
    validation all the time until the next checkpoint, 0 makes training wait for every one."""
    export: Literal["best", "last"] = "best"
    """The checkpoint whose weights become the run's model."""
    cpus: float = Field(0, ge=0)
    """Logical CPUs that a validation reserves; with 0 it runs beside workers that hold all of them."""
    gpu: bool = False
    """A GPU of its own, beside those of the workers."""
    timeout_seconds: float = Field(1_800, gt=0)
    """A validation that takes longer ends the run with an error; the checkpoint is kept."""

    @property
    def rule(self) -> StoppingRule:
        return StoppingRule(self.measure == "pool_loss", self.patience, self.min_delta)
