"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_ray.errors import ConfigError
from hbt_ray.languages.tags import normalise_tag

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A folder, or a URI such as s3://bucket/store.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder or a Hugging Face name.")]
IndexArgument = Annotated[str, typer.Argument(metavar="INDEX", help="The folder of the index.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings; all keys are listed below.")
]
LanguagesOption = Annotated[str, typer.Option("--languages", help="Use only these languages, such as en,de,ar.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
]


def language_tags(names: str) -> list[str]:
    """The canonical tags of an option such as `--languages en,de`.

    Raises:
        ConfigError: a name is not a language tag.
    """
    try:
        return list(dict.fromkeys(normalise_tag(name.strip()) for name in names.split(",") if name.strip()))
    except ValueError as error:
        raise ConfigError(f"--languages: {error}", code="INVALID_LANGUAGE") from None
