"""How should batches be mixed: how many are monolingual, how are languages paired, how much do small ones count?

Alpha is drawn from all of [0, 1]; a cross-lingual batch pairs languages row by row or one pair for all of its rows; the
exponent makes languages count by size (1), or all the same (0). Optuna looks for the front of all objectives at once.

Costs as many runs of the configuration as there are samples.
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
