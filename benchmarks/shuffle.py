"""How well the plan shuffles: do items that met in a batch meet again in the next epoch?

Pure plan, no data: a data set of 65,536 items in one language, batches of 256, five epochs. Of all pairs of rows in a
batch, the share that shares a batch of the next epoch too, beside what uniform permutations give: (B-1)/(N-1).
`run_length` keeps so many neighbouring items together, for reading in ranges, and so buys speed with shuffling.

    python benchmarks/shuffle.py [--json]
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hbt_ray.data.manifest import DatasetInfo, Group, Manifest
from hbt_ray.data.plan import Plan
from hbt_ray.data.policy import PlanConfig

NUM_ITEMS, BATCH, EPOCHS = 65_536, 256, 5
RUN_LENGTHS = (1, 16, 64)


def main() -> None:
    ideal = (BATCH - 1) / (NUM_ITEMS - 1)
    measured = {length: measure(length) for length in RUN_LENGTHS}
    if "--json" in sys.argv:
        ratio = {length: share / ideal for length, share in measured.items()}
        print(json.dumps({"ours": measured, "ideal": ideal, "ratio": ratio}))
        return
    table = Table("run_length", "pairs that meet again", "of ideal")
    for length, share in {**measured, "ideal": ideal}.items():
        table.add_row(str(length), f"{share:.5f}", f"{share / ideal:.2f}")
    Console().print(table)


def measure(run_length: int) -> float:
    """Mean over the changes from an epoch to the next."""
    orders = epochs(run_length)
    return float(np.mean([meet_again(*change) for change in pairwise(orders)]))


def epochs(run_length: int) -> list[NDArray[np.int64]]:
    """The items of each epoch in the order of the batches."""
    group = Group(languages=("en",), num_items=NUM_ITEMS)
    whole = Manifest(datasets=(DatasetInfo(name="set", groups=(group,), shards=()),))
    plan = Plan(whole, PlanConfig(policy="mono", batch_size=BATCH, run_length=run_length))
    steps = NUM_ITEMS // BATCH
    return [
        np.concatenate([plan.batch(step).items for step in range(epoch * steps, (epoch + 1) * steps)])
        for epoch in range(EPOCHS)
    ]


def meet_again(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Share of the pairs of a batch that share a batch afterwards."""
    batches = np.empty(NUM_ITEMS, np.int64)
    batches[after] = np.arange(NUM_ITEMS) // BATCH
    again = batches[before].reshape(-1, BATCH)
    # n rows of a batch that go into the same batch make n(n-1) ordered pairs.
    counts = np.stack([np.bincount(row, minlength=NUM_ITEMS // BATCH) for row in again])
    return float((counts * (counts - 1)).sum() / (again.size * (BATCH - 1)))


if __name__ == "__main__":
    main()
