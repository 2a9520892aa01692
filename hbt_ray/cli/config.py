"""`hbt config`: all settings with type, default and meaning."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_ray.cli.settings_help import command_settings, format_settings
from hbt_ray.errors import ConfigError

COMMANDS = ("prepare", "mine", "train", "posthoc", "evaluate", "index build", "tune", "doctor")


def config(
    section: Annotated[
        str,
        typer.Argument(
            metavar="[SECTION]",
            help="A command such as evaluate, or a section of a training configuration such as plan.",
        ),
    ] = "train",
) -> None:
    """List the settings of a command or of a section of a training configuration."""
    command, _, inner = section.partition(".")
    command = "index build" if command == "index" else command
    if command not in COMMANDS:
        command, inner = "train", section
    settings = command_settings(command)
    shown = [setting for setting in settings if not inner or f"{setting.key}.".startswith(f"{inner}.")]
    if not shown:
        sections = dict.fromkeys(setting.key.partition(".")[0] for setting in settings if "." in setting.key)
        raise ConfigError(
            f"{section!r} is neither a command nor a section of a training configuration. Commands: "
            f"{', '.join(COMMANDS)}; sections: {', '.join(sections)}"
        )
    print(format_settings(shown))
