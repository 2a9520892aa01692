"""The command that looks at the installation and the cluster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.app import app
from hbt_ray.cli.options import AsJson
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hbt_ray.doctor.checks import Finding

COLOURS = {"ok": "green", "advice": "cyan", "warning": "yellow", "failure": "bold red"}


@app.command()
def doctor(
    storage: Annotated[
        str, typer.Option(metavar="PATH", help="The folder of the runs, which all nodes share. [runs, or CONFIG's]")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG.yaml", help="A run that is to have room: its workers and storage.")
    ] = None,
    no_network: Annotated[bool, typer.Option("--no-network", help="Leave out the bandwidth between nodes.")] = False,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long a node may take to say what it has.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Check the installation and every node of the cluster; 1 where something fails, 0 with warnings or without."""
    from hbt_ray.console import Screen
    from hbt_ray.doctor.checks import any_failure
    from hbt_ray.doctor.run import examine
    from hbt_ray.ray_session import session
    from hbt_ray.train.config import TrainConfig

    if "://" in storage:
        raise ConfigError(f"--storage {storage}: runs and checkpoints need a path that all nodes mount, not a URI")
    screen = Screen(as_json)
    run = TrainConfig.load(config) if config else None
    folder = Path(storage) if storage else run.storage_path if run else Path("runs")
    with session(spare_cpus=False):
        report = examine(
            folder.absolute(),
            network=not no_network,
            workers=run.workers if run else None,
            seconds=seconds,
            progress=screen.say,
        )
    screen.table(_table(report.findings))
    screen.result(
        {
            "ok": not any_failure(report.findings),
            "findings": [asdict(finding) for finding in report.findings],
            "nodes": [asdict(node) for node in report.nodes],
        }
    )
    if any_failure(report.findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", "what to do", box=SIMPLE_HEAD)
    for finding in findings:
        level = Text(finding.level.value, style=COLOURS[finding.level.value])
        table.add_row(finding.check, level, finding.message, finding.remedy)
    return table
