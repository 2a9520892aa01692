"""The command that searches."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Annotated

import typer

from hbt_ray.cli.app import app
from hbt_ray.cli.options import AsJson, Overrides


@app.command()
def tune(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="A module such as tune_spaces.mixing_ratio, or a file of your own.")
    ],
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.yaml", help="What the trials have in common.")],
    overrides: Overrides = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="How it is searched, such as algorithm=optuna, samples=20, rungs.first=100, budget.hours=2; "
            "repeatable.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the search; the same name continues it. Default: the space's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Search a space of training configurations; the same command goes on where it stopped."""
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.tune.config import TuneConfig
    from hbt_ray.tune.search import Search
    from hbt_ray.tune.space import load_space
    from hbt_ray.tune.state import trial_run
    from hbt_ray.workflow.tuning import exclusive_search, run_search

    screen = Screen(as_json)
    found, question = load_space(space)
    settings = TuneConfig.make(deepcopy(dict(found.settings)), "the space", search or ())
    own = space.removesuffix(".py").rpartition("/")[2].rpartition(".")[2]
    base = TrainConfig.load(config, [f"name={name or own}", *(overrides or ())])
    prepared = Search(found, space, base, settings)
    with exclusive_search(prepared), session(spare_cpus=False):
        end = run_search(prepared, question, screen)
    screen.result(
        {
            "search": prepared.folder,
            "trials": {status: sum(trial.status == status for trial in end.state.trials)
                       for status in ("finished", "stopped", "failed", "running")},
            "front": [
                {"values": trial.values, "run": trial_run(prepared.folder, trial).root, **trial.rows[trial.step]}
                for trial in end.front
            ],
            "report": end.report,
            "configs": end.configs,
        }
    )  # fmt: skip
