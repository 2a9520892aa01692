"""The plan on paper: a billion items, a hundred languages, fifty data sets, 4,096 ranks.

Ours: `Plan` over a manifest of that size: time and memory of the set-up, time of any step up to 10^7 with a global
batch of 32,768, cut for 4,096 ranks. Peer: the usual way to shuffle, a stored permutation (numpy's `permutation`):
one stream, no languages, no mixture; at 10^9 items it would take 8 GB, so it holds 10^7. Its step is a slice.

Also the worst error of every mixture in any window of 20,000 steps, beside its bound.

    python benchmarks/plan_scale.py [--json]
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hbt_ray.data.index.manifest import DatasetInfo, LanguageGroup, Manifest
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Plan

LANGUAGES = tuple(a + b for a in "abcdefghij" for b in "abcdefghij")
NUM_DATASETS, ITEMS_OF_A_DATASET, BATCH, RANKS = 50, 20_000_000, 32_768, 4_096
STEPS = [0, 1, 2, 3, 1_000, 12_345, 999_999, 5_000_000, 9_999_999, 10_000_000]
PEER_ITEMS = 10_000_000
WINDOW = 20_000


def main() -> None:
    ours = {f"{policy}, {cross}": measure(policy, cross) for policy, cross in CASES}
    peer = measure_peer()
    errors = {name: worst_error(**options) for name, options in MIXTURES.items()}
    slowest = max(ours.values(), key=lambda case: case["step_ms_worst"])
    ratio = {
        "items held per second of set-up, ours / peer": (NUM_DATASETS * ITEMS_OF_A_DATASET / slowest["setup_s"])
        / (PEER_ITEMS / peer["setup_s"]),
        "step time, ours / peer": slowest["step_ms_median"] / peer["step_ms_median"],
    }
    if "--json" in sys.argv:
        print(json.dumps({"ours": ours, "peer": peer, "ratio": ratio, "window_errors": errors}))
        return
    console = Console()
    table = Table("plan", "items", "set-up s", "set-up MB", "step ms, median", "worst", title="Set-up and any step")
    for name, case in {**ours, "peer: stored permutation": peer}.items():
        figures = (case["items"], case["setup_s"], case["setup_mb"], case["step_ms_median"], case["step_ms_worst"])
        table.add_row(name, f"{figures[0]:.0e}", *(f"{figure:.3g}" for figure in figures[1:]))
    console.print(table)
    for name, value in ratio.items():
        console.print(f"{name}: {value:.3g}")
    bounds = Table("mixture", "worst error in any window", "bound", title=f"Over {WINDOW:,} steps")
    for name, (error, bound) in errors.items():
        bounds.add_row(name, f"{error:.3f}", bound)
    console.print(bounds)


CASES = [("hybrid", "rows"), ("hybrid", "pair"), ("mixed", "rows")]


def manifest(num_items: int = ITEMS_OF_A_DATASET) -> Manifest:
    """Nine tenths of the items in all languages, the rest in half of them."""
    groups = (
        LanguageGroup(languages=LANGUAGES, num_items=num_items * 9 // 10),
        LanguageGroup(languages=LANGUAGES[:50], num_items=num_items // 10),
    )
    names = [f"set{number}" for number in range(NUM_DATASETS)]
    return Manifest(datasets=tuple(DatasetInfo(name=name, groups=groups, shards=()) for name in names))


def measure(policy: Any, cross: Any) -> dict[str, float]:
    whole = manifest()
    before = resident()
    begin = time.perf_counter()
    plan = Plan(whole, PlanConfig(policy=policy, cross=cross, batch_size=BATCH))
    plan.batch(0)
    setup = time.perf_counter() - begin
    step_times = [timed(lambda step=step: plan.batch(step).slice(RANKS - 1, RANKS)) for step in STEPS]  # type: ignore[misc]
    return {
        "items": whole.num_items,
        "setup_s": setup,
        "setup_mb": max(0, resident() - before) / 2**20,
        "step_ms_median": 1e3 * statistics.median(step_times),
        "step_ms_worst": 1e3 * max(step_times),
    }


def measure_peer() -> dict[str, float]:
    begin = time.perf_counter()
    order = np.random.default_rng(0).permutation(PEER_ITEMS)
    setup = time.perf_counter() - begin
    starts = [step * BATCH % (PEER_ITEMS - BATCH) for step in STEPS]
    step_times = [timed(lambda start=start: order[start : start + BATCH].copy()) for start in starts]  # type: ignore[misc]
    return {
        "items": PEER_ITEMS,
        "setup_s": setup,
        "setup_mb": order.nbytes / 2**20,
        "step_ms_median": 1e3 * statistics.median(step_times),
        "step_ms_worst": 1e3 * max(step_times),
    }


MIXTURES: dict[str, dict[str, Any]] = {
    "kind, alpha 0.5": {"of": "kind", "expected": {"mono": 0.5}, "alpha": 0.5},
    "kind, alpha 0.137": {"of": "kind", "expected": {"mono": 0.137}, "alpha": 0.137},
    "data set by size^1": {"of": "dataset", "expected": {f"set{n}": 0.02 for n in range(50)}, "policy": "mono"},
    "language, uniform": {
        "of": "language",
        "expected": dict.fromkeys(LANGUAGES, 0.01),
        "policy": "mono",
        "dataset_weights": {f"set{n}": 0.0 for n in range(1, 50)},
    },
    "language by size^0.7": {
        "of": "language",
        "expected": {
            language: (1.0 if n < 50 else 0.9**0.7) / (50 + 50 * 0.9**0.7) for n, language in enumerate(LANGUAGES)
        },
        "policy": "mono",
        "language_exponent": 0.7,
        "dataset_weights": {f"set{n}": 0.0 for n in range(1, 50)},
    },
}


def worst_error(of: str, expected: dict[str, float], **options: Any) -> tuple[float, str]:
    """Largest |count - share · length| over all windows of steps and all choices."""
    plan = Plan(manifest(200_000), PlanConfig(batch_size=2, **options))
    seen = np.array([getattr(plan.batch(step), of) for step in range(WINDOW)])
    worst = 0.0
    for choice, share in expected.items():
        # The error of a window is the difference of two prefix sums, so the largest is their range.
        errors = np.concatenate([[0.0], np.cumsum((seen == choice) - share)])
        worst = max(worst, float(errors.max() - errors.min()))
    return worst, "< 1" if of == "kind" else "< 4"


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def resident() -> int:
    """Peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB.


if __name__ == "__main__":
    main()
