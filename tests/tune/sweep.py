"""A small search that several tests run, some in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hbt_ray.cli.tune import SearchOutcome, run_search
from hbt_ray.console import Screen
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.search import Search
from hbt_ray.tune.search_state import SearchState
from hbt_ray.tune.space import Space
from tests.small_data import small_run

ALPHAS = Space({"plan.alpha": [0.2, 0.8]})


def prepared(workspace: Path, name: str, space: Space = ALPHAS, *overrides: str, **settings: Any) -> Search:
    options = (f"name={name}", f"validation.store={workspace / 'dev'}", "workers.count=1", "optimiser.steps=20",
               "checkpoints.every=10", "model.dropout=0.1", *overrides)  # fmt: skip
    base = small_run(workspace, *options)
    return Search(space, "a space", base, TuneConfig.make(dict(space.settings) | settings, "test"))


def searched(search: Search) -> SearchOutcome:
    return run_search(search, "Which?", Screen(silent=True))


def measured(state: SearchState) -> dict[str, dict[int, dict[str, float]]]:
    """What trials measured, by their values; without how long that took."""
    return {
        json.dumps(trial.values): {
            step: {name: value for name, value in row.items() if name != "seconds"} for step, row in trial.rows.items()
        }
        for trial in state.trials
    }
