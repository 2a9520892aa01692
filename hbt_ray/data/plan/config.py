"""The policy: how batches are made, as a configuration says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hbt_ray.config import Config, Languages
from hbt_ray.data.plan.mixing import Alpha


class PlanConfig(Config):
    """How batches are made."""

    policy: Literal["mono", "cross", "hybrid", "mixed"] = "hybrid"
    """mono: one language a batch; cross: question and passage differ; hybrid: both, by alpha; mixed: same-language
    rows of many languages in one batch (LAReQA's X-X, known to be bad: a control)."""
    alpha: Alpha = 0.5
    """Share of monolingual batches; hybrid only. A number, {start, end, steps} or {stages: [{from_step, alpha}, …]}."""
    cross: Literal["rows", "pair"] = "rows"
    """Cross-lingual batches: every row draws its own ordered pair of languages, or one pair for the whole batch."""
    batch_size: int = Field(64, gt=0)
    """Global batch: rows of one optimiser step over all ranks."""
    languages: Languages = ()
    """Languages to train on; empty means all of the store."""
    schedule: Literal["balanced", "random"] = "balanced"
    """balanced: shares hold in every window of steps; random: independent draws, as the paper words it."""
    dataset_exponent: float = Field(1.0, ge=0)
    """A dataset is drawn in proportion to items ** exponent."""
    dataset_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Factors to the share of a dataset, by its name; 0 leaves it out."""
    language_exponent: float = Field(0.0, ge=0)
    """A language is drawn in proportion to items ** exponent; 0 is uniform, as in the paper."""
    run_length: int = Field(1, gt=0)
    """Rows that stay neighbours in the walk, for range reads from remote storage; 1 is a perfect shuffle."""
    negatives: int = Field(0, ge=0)
    """Mined negatives of a row, from the folder that the run names; those of all rows are candidates for each."""
    seed: int = 0

    @property
    def mono_share(self) -> Alpha:
        return {"mono": 1.0, "cross": 0.0, "mixed": 0.0, "hybrid": self.alpha}[self.policy]

    def __str__(self) -> str:
        alpha = f"{self.alpha:g}" if isinstance(self.alpha, float) else str(self.alpha)
        return f"hybrid({alpha})" if self.policy == "hybrid" else self.policy
