"""What lowers language bias, and what does it cost: batches, loss terms, or post-hoc transforms?

Four batch policies, and hybrid batches with each loss term against language bias. Every trained encoder is measured
without and with each post-hoc transform of its vectors (`posthoc`), which costs no training.

Costs seven runs of the configuration for each seed.
"""

from typing import Any

from hbt_ray.tune import Space

RECIPES: dict[str, dict[str, Any]] = {
    "mono": {"plan.policy": "mono"},
    "cross": {"plan.policy": "cross"},
    "mixed": {"plan.policy": "mixed"},
    "hybrid": {"plan.policy": "hybrid"},
    "hybrid + lakda": {"plan.policy": "hybrid", "loss.lakda": {"weight": 1.0}},
    "hybrid + alignment": {"plan.policy": "hybrid", "loss.alignment": {"weight": 1.0}},
    "hybrid + erasure": {"plan.policy": "hybrid", "loss.erasure": {"weight": 1.0}},
}

SPACE = Space(
    search={"recipe": list(RECIPES)},
    seeds=2,
    settings={"posthoc": ["centering", "lir", "shift"]},
    configure=lambda values, base: RECIPES[values["recipe"]],
)
