"""Which share of monolingual batches is best, and for which setting?

Five values of alpha from purely cross-lingual (0) to purely monolingual (1), with three seeds each. 2408.10536 found
0.4 to 0.6 best for pretrained encoders. All trials take their batches from one plan: at every alpha the monolingual
batches come from one sequence and the cross-lingual ones from another.

Costs fifteen runs of the configuration.
"""

from hbt_ray.tune import Space

SPACE = Space(
    search={"plan.alpha": [0.0, 0.25, 0.5, 0.75, 1.0]},
    seeds=3,
    configure=lambda values, base: {"plan.policy": "hybrid", **values},
)
