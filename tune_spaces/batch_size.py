"""Up to which batch size do larger batches still save steps?

As in 2410.21676: a constant learning rate, weights averaged over the steps, and the number of steps to a fixed value on
the dev store at the best learning rate of each batch size. The report fits steps = a + b / batch and gives the batch
size beyond which larger batches stop paying.

Costs 30 runs: five batch sizes, three learning rates, two seeds. All of them see the same number of pairs.
"""

from typing import Any

from hbt_ray.tune import Space

SIZES = [32, 64, 128, 256, 512]


def configure(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    size = values["plan.batch_size"]
    pairs = base["optimiser"]["steps"] * base["plan"]["batch_size"]
    steps = max(20, pairs // size)
    every = max(1, steps // 20)  # Twenty validations at every batch size, so that curves have equal resolution.
    return {
        "plan.batch_size": size,
        "optimiser.learning_rate": base["optimiser"]["learning_rate"] * values["rate"],
        "optimiser.decay": "none",
        "optimiser.warmup": 0.05,
        # For any number of steps, the last twentieth has half of the weight in the average.
        "optimiser.ema": max(0.5, 1 - 14 / steps) if steps > 28 else 0.5,
        "optimiser.steps": every * 20,
        "checkpoints.every": every,
    }


SPACE = Space(
    search={"plan.batch_size": SIZES, "rate": [0.5, 1.0, 2.0]}, seeds=2, configure=configure, batch_sizes=True
)
