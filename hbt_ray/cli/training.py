"""Commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_ray.cli.app import app
from hbt_ray.cli.options import AsJson, Overrides


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")],
    overrides: Overrides = None,
    until: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many steps; the same command without it goes on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an encoder on a store; the same run name continues where it stopped."""
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.train.driver.trainer import open_run
    from hbt_ray.workflow.training import exclusive_run, train_run

    screen = Screen(as_json)
    settings = TrainConfig.load(config, overrides or ())
    with exclusive_run(settings):
        open_run(settings)  # What is wrong shows before a cluster starts.
        with session():
            end = train_run(settings, screen, until)
    run = settings.run
    screen.result(
        {
            "run": run.root,
            "steps": end.done,
            "complete": end.complete,
            "stopped_early": end.reason or None,
            "best_step": end.best,
            "best_dev": end.value,
            "model": run.model if end.complete else None,
        }
    )


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where store, run and report go.")] = Path("demo"),
    policy: Annotated[str, typer.Option(help="hybrid, mono, cross or mixed.")] = "hybrid",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The whole way on embedded data: prepare, train on two workers, judge, report; some minutes on two cores."""
    from hbt_ray.console import Screen
    from hbt_ray.demo import run_demo
    from hbt_ray.retrieval.compare import headline_table

    screen = Screen(as_json)
    made = run_demo(folder.absolute(), policy, screen, tuple(overrides or ()))
    screen.table(headline_table([made.trained], made.untrained))
    screen.say(made.sentence)
    screen.say(f"Report: {made.report}    encoder: {made.config.run.model}")
    screen.result({"results": [made.untrained.model_dump(), made.trained.model_dump()], "report": made.report})
