"""Shuffle quality: how often two items of one batch share a batch of the next epoch again, beside the ideal.

Under an ideal shuffle an item meets any other with chance (B - 1) / (N - 1), whatever came before. Runs of neighbours
(`plan.run_length`) are read from remote storage in ranges, and most of them stay together: that is their price. (Runs
begin at another place in every epoch, so that no two neighbours stay together for ever.) Needs no data: only the items
of the plan's batches are computed, under several seeds.

    python benchmarks/shuffle.py [--json] [--items 262144] [--batch 1024]
"""

from __future__ import annotations

import argparse
import json
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from hbt_ray.data.index.manifest import DatasetInfo, LanguageGroup, Manifest
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Plan

RUN_LENGTHS, SEEDS = (1, 16, 64), range(16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--items", type=int, default=262_144)
    parser.add_argument("--batch", type=int, default=1_024)
    options = parser.parse_args()
    if options.items % options.batch:
        parser.error("--items must be a multiple of --batch, so that every epoch is whole batches")
    ideal = (options.batch - 1) / (options.items - 1)
    chances = {
        length: fmean(chance_to_meet_again(options.items, options.batch, length, seed) for seed in SEEDS)
        for length in RUN_LENGTHS
    }
    if options.json:
        print(json.dumps({"ideal": ideal, "chances": chances}))
        return
    table = Table("run_length", "meet again", "ideal shuffle", "times the ideal", "of a batch's others stay")
    for length, chance in chances.items():
        stay = f"{chance * (options.batch - 1):,.1f} of {options.batch - 1:,}"
        table.add_row(str(length), f"{chance:.5f}", f"{ideal:.5f}", f"{chance / ideal:.2f}", stay)
    Console().print(table)


def chance_to_meet_again(num_items: int, batch_size: int, run_length: int, seed: int) -> float:
    """Share of the pairs in one batch of the first epoch that are in one batch of the second, too."""
    info = DatasetInfo(name="made", groups=(LanguageGroup(languages=("de",), num_items=num_items),), shards=())
    config = PlanConfig(policy="mono", batch_size=batch_size, run_length=run_length, seed=seed)
    plan = Plan(Manifest(datasets=(info,)), config)
    num_batches = num_items // batch_size
    later = np.empty(num_items, np.int64)  # Item → number of its batch in the second epoch.
    for number in range(num_batches):
        later[plan.batch(num_batches + number).items] = number
    met = sum(
        int((counts * (counts - 1) // 2).sum())
        for counts in (np.bincount(later[plan.batch(number).items]) for number in range(num_batches))
    )
    return met / (num_batches * (batch_size * (batch_size - 1) // 2))


if __name__ == "__main__":
    main()
