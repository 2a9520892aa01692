"""Is there a schedule of alpha and the learning rate that beats every constant?

A population trains side by side. After every segment the worse half takes over the weights of the better half, with
alpha and the learning rate changed. The result is a schedule in stages, which is a configuration like any other
(1711.09846).

Costs one run of the configuration for each member of the population, and one start of the workers for each segment.
"""

from ray import tune

from hbt_ray.tune import Space

SPACE = Space(
    search={"plan.alpha": tune.uniform(0.0, 1.0), "optimiser.learning_rate": tune.loguniform(3e-4, 3e-3)},
    settings={"algorithm": "pbt", "samples": 4, "segment": 100},
    configure=lambda values, base: {"plan.policy": "hybrid", **values},
)
