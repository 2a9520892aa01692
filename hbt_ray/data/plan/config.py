"""The configuration of the batch plan."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hbt_ray.config import Config, Languages
from hbt_ray.data.plan.mixing import Alpha


class PlanConfig(Config):
    """How batches are made."""

    policy: Literal["mono", "cross", "hybrid", "mixed"] = "hybrid"
    """mono: one language a batch; cross: question and passage in different languages; hybrid: both, mixed
    by alpha; mixed: same-language rows of many languages in one batch (LAReQA's X-X, a control known to be bad)."""
    alpha: Alpha = 0.5
    """Share of monolingual batches; hybrid only. A number, {start, end, steps} or {stages: [{from_step, alpha}, …]}."""
    cross: Literal["rows", "pair"] = "rows"
    """Cross-lingual batches. rows: every row draws its own ordered pair of languages, as in the paper; pair: one
    ordered pair for the whole batch."""
    batch_size: int = Field(64, gt=0)
    """Rows of a global batch: one optimiser step over all ranks."""
    languages: Languages = ()
    """Languages to train on; empty for all languages of the store."""
    dataset_exponent: float = Field(1.0, ge=0)
    """A dataset is drawn in proportion to items ** exponent; 1 draws every item equally often."""
    dataset_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Factor on the share of a dataset, by its name; 0 leaves it out."""
    language_exponent: float = Field(0.0, ge=0)
    """A language is drawn in proportion to items ** exponent; 0 is uniform, as in the paper."""
    run_length: int = Field(1, gt=0)
    """Rows that stay neighbours when the data is shuffled, for range reads from remote storage; 1 is a perfect
    shuffle."""
    negatives: int = Field(0, ge=0)
    """Mined negatives of a row, from the folder `negatives` of the run; each row's loss uses those of all rows."""
    seed: int = 0
    """Seed for the order of languages, datasets and rows."""

    @property
    def mono_share(self) -> Alpha:
        return {"mono": 1.0, "cross": 0.0, "mixed": 0.0, "hybrid": self.alpha}[self.policy]

    def __str__(self) -> str:
        alpha = f"{self.alpha:g}" if isinstance(self.alpha, float) else str(self.alpha)
        return f"hybrid({alpha})" if self.policy == "hybrid" else self.policy
