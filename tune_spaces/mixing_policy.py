"""How should batches be mixed: which share is monolingual, how are languages paired, how much do small languages count?

Alpha is drawn from [0, 1]. A cross-lingual batch pairs languages row by row, or one pair for all of its rows. The
exponent makes languages count by their size (1) or all the same (0). Optuna searches for the Pareto front of all
objectives.

Costs one run of the configuration for each sample.
"""

from ray import tune

from hbt_ray.tune import Space

SPACE = Space(
    search={
        "plan.alpha": tune.uniform(0.0, 1.0),
        "plan.cross": ["rows", "pair"],
        "plan.language_exponent": tune.uniform(0.0, 1.0),
    },
    settings={"algorithm": "optuna", "samples": 24},
    configure=lambda values, base: {"plan.policy": "hybrid", **values},
)
