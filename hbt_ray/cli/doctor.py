"""`hbt doctor`: checks of the installation and of every node."""

from __future__ import annotations

from dataclasses import asdict

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides
from hbt_ray.errors import ConfigError, redact
from hbt_ray.storage import ObjectPath, as_path

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def doctor(
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation and every node of the cluster; exit code 1 if a check fails, otherwise 0."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from hbt_ray.cli.settings import DoctorSettings
    from hbt_ray.console import Screen
    from hbt_ray.doctor.checks import any_failure
    from hbt_ray.doctor.run import examine
    from hbt_ray.ray_session import session

    settings = DoctorSettings.load(overrides=overrides or ())
    storage = as_path(settings.storage_path).absolute()
    if isinstance(storage, ObjectPath):
        raise ConfigError(
            f"storage_path={redact(str(storage))}: only a folder can be examined on all nodes; `hbt train` tries a "
            "bucket before it starts workers",
            code="STORAGE_URI",
        )
    screen = Screen(as_json)
    with session(spare_cpus=False):
        report = examine(storage, network=settings.network, seconds=settings.seconds, progress=screen.log)
    table = Table("check", "", "state", "what to do", box=SIMPLE_HEAD)
    for finding in report.findings:
        level = Text(finding.level.value, style=_COLOURS[finding.level.value])
        table.add_row(finding.check, level, finding.message, finding.remedy)
    screen.table(table)
    screen.result(
        {
            "ok": not any_failure(report.findings),
            "findings": [asdict(finding) for finding in report.findings],
            "nodes": [asdict(node) for node in report.nodes],
        }
    )
    if any_failure(report.findings):
        raise typer.Exit(1)
