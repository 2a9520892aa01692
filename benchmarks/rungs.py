"""Savings by rungs: a grid of learning rates and alphas trained to the end, and the same grid with ASHA.

Prints the steps that each took, the best dev AP that each found, and what a random search could expect at the budget of
ASHA: the expected best of as many trials of the whole grid, drawn without repetition (exactly, from their order).

    python benchmarks/rungs.py [--steps 90] [--first 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from math import comb
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.ray_session import session
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.search import Search
from hbt_ray.tune.search_state import SearchState
from hbt_ray.tune.space import Space

SPACE = Space({"optimiser.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], "plan.alpha": [0.2, 0.8]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--first", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        for split, name in (("train", "store"), ("dev", "dev")):
            source = {"kind": "worldfacts", "split": split, "languages": ["de", "en", "zh", "ar"]}
            prepare(StoreConfig.make({"path": str(folder / name), "sources": [source]}, "benchmark"))
        with session(spare_cpus=False):
            grid, grid_seconds = searched(folder, options, "grid")
            asha, asha_seconds = searched(folder, options, "asha", rungs={"first": options.first, "reduction": 3})
    scores = sorted((trial.last("AP") or 0.0 for trial in grid.finished), reverse=True)
    trials = round(asha.steps / options.steps)  # Whole trials for the same number of steps.
    table = Table("", "steps", "seconds", "trials to the end", "best AP")
    table.add_row("whole grid", f"{grid.steps:,}", f"{grid_seconds:.0f}", str(len(grid.finished)), f"{scores[0]:.4f}")
    found = max(trial.last("AP") or 0.0 for trial in asha.finished)
    table.add_row("ASHA", f"{asha.steps:,}", f"{asha_seconds:.0f}", str(len(asha.finished)), f"{found:.4f}")
    table.add_row("random, expected", f"{trials * options.steps:,}", "", str(trials), f"{expected(scores, trials):.4f}")
    Console().print(table)


def searched(folder: Path, options: argparse.Namespace, name: str, **settings: Any) -> tuple[SearchState, float]:
    begin = time.perf_counter()
    values = {
        "name": name,
        "storage_path": str(folder),
        "store": str(folder / "store"),
        "model": {"layers": 1, "width": 48, "heads": 2, "vocabulary": 2_000, "max_question_length": 24,
                  "max_passage_length": 32},
        "plan": {"batch_size": 48},
        "optimiser": {"steps": options.steps},
        "checkpoints": {"every": options.first},
        "validation": {"store": str(folder / "dev"), "items": 128},
    }  # fmt: skip
    search = Search(SPACE, "benchmark", TrainConfig.make(values, "benchmark"), TuneConfig.make(settings, "benchmark"))
    state = search.run(search.max_concurrent(ray.cluster_resources()))
    return state, time.perf_counter() - begin


def expected(scores: list[float], trials: int) -> float:
    """Expected maximum of `trials` scores that are drawn without repetition; `scores` are in falling order.

    The i-th score is the maximum if it is drawn and none before it is.
    """
    whole = comb(len(scores), trials)
    return sum(score * comb(len(scores) - 1 - place, trials - 1) / whole for place, score in enumerate(scores))


if __name__ == "__main__":
    main()
