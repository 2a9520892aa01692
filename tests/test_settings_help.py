"""The settings that `--help` lists are those of the configuration classes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from hbt_ray.cli.settings import COMMAND_SETTINGS
from hbt_ray.cli.settings_help import command_settings, format_settings, option_hint
from hbt_ray.config import Config


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and description of each field that is not a section, and of the fields of sections."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, " ".join((field.description or "").split())


@pytest.mark.parametrize("command", COMMAND_SETTINGS)
def test_each_field_is_listed_with_its_description(command: str) -> None:
    listed = {setting.key: setting.meaning for setting in command_settings(command)}
    expected = dict(fields_of(COMMAND_SETTINGS[command]))
    assert {key: listed.get(key) for key in expected} == expected


def test_defaults_and_types_are_as_in_yaml() -> None:
    settings = {setting.key: setting for setting in command_settings("train")}
    assert settings["name"].default is None
    assert (settings["storage_path"].type, settings["storage_path"].default) == ("path or URI", "runs")
    assert settings["negatives"].default == "null"
    assert settings["checkpoints.every"].type == "integer > 0"
    assert settings["plan.policy"].type == "mono | cross | hybrid | mixed"
    assert "loss.lakda.weight" in settings
    assert "  plan.policy=mono | cross" in format_settings(list(settings.values()))
    conditions = {setting.condition for setting in command_settings("prepare") if setting.key == "sources.N.path"}
    assert "kind=table" in conditions


@pytest.mark.parametrize(
    ("command", "option", "hint"),
    [
        ("evaluate", "--batch-size", "encoder.batch_size=VALUE"),
        ("evaluate", "--search", "search.KEY=VALUE"),
        ("evaluate", "--storage", "storage_path=VALUE"),
        ("mine", "--rescore", "rescorer.model=VALUE"),
        ("mine", "--language", "language=VALUE"),
        ("index build", "--factory", "index.factory=VALUE"),
        ("posthoc", "--texts", "method.texts=VALUE"),
        ("tune", "--name", "name=VALUE"),
        ("doctor", "--no-network", "network=false"),
        ("train", "--nothing", ""),
        ("report", "--batch-size", ""),
    ],
)
def test_an_option_that_is_a_setting_is_named(command: str, option: str, hint: str) -> None:
    assert option_hint(command, option) == hint


def test_listing_settings_imports_neither_torch_nor_ray() -> None:
    script = (
        "import sys; from hbt_ray.cli.app import app; from hbt_ray.cli.settings_help import command_settings\n"
        "assert command_settings('tune')\n"
        "print({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
