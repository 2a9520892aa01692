"""`hbt doctor`: checks of the installation and of every node."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hbt_ray.doctor.checks import Finding

_COLOURS = {"ok": "green", "advice": "cyan", "warning": "yellow", "failure": "bold red"}


def doctor(
    overrides: Overrides = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG.yaml", help="Also check that this run's workers and storage are available."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation and every node of the cluster; exit code 1 if a check fails, otherwise 0."""
    from hbt_ray.cli.settings import DoctorSettings
    from hbt_ray.console import Screen
    from hbt_ray.doctor.checks import any_failure
    from hbt_ray.doctor.run import examine
    from hbt_ray.ray_session import session
    from hbt_ray.train.config import TrainConfig

    settings = DoctorSettings.load(overrides=overrides or ())
    if settings.storage_path and str(settings.storage_path).partition("/")[0].endswith(":"):
        raise ConfigError(
            f"storage_path={settings.storage_path}: runs and checkpoints need a path that all nodes mount, not a URI"
        )
    screen = Screen(as_json)
    run = TrainConfig.load(config) if config else None
    folder = settings.storage_path or (run.storage_path if run else Path("runs"))
    with session(spare_cpus=False):
        report = examine(
            folder.absolute(),
            network=settings.network,
            workers=run.workers if run else None,
            seconds=settings.seconds,
            progress=screen.log,
        )
    screen.table(_findings_table(report.findings))
    screen.result(
        {
            "ok": not any_failure(report.findings),
            "findings": [asdict(finding) for finding in report.findings],
            "nodes": [asdict(node) for node in report.nodes],
        }
    )
    if any_failure(report.findings):
        raise typer.Exit(1)


def _findings_table(findings: Sequence[Finding]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", "what to do", box=SIMPLE_HEAD)
    for finding in findings:
        level = Text(finding.level.value, style=_COLOURS[finding.level.value])
        table.add_row(finding.check, level, finding.message, finding.remedy)
    return table
