"""Arguments and options that several commands have, and the folders that the argument MODEL names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import AnyPath, as_path, folder_exists, valid_name

if TYPE_CHECKING:
    from hbt_ray.retrieval.encoder import EncoderConfig, EncodingConfig

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


def find_run(model: str, name: str = "", storage: str = ".") -> RunDir:
    """The run that `model` names, or the folder for the results of any other model.

    Raises:
        ModelError: the model is neither a model folder nor a hub name, or it is a run that has not finished training.
    """
    from hbt_ray.retrieval.encoder import local_model_folder

    run = RunDir.at(model)
    if run.config.exists():
        if not folder_exists(run.model):
            raise ModelError(
                f"run {model} has no exported encoder yet. Let `hbt train` finish, or evaluate {run.base}",
                code="MODEL_NOT_FOUND",
            )
        return run
    local_model_folder(model)  # Raises the documented error.
    return results_folder(storage, name or model.strip("/").replace("/", "--").lstrip("."))


def results_folder(storage: str, name: str) -> RunDir:
    """The folder below `storage` for the results of a model that is not a run.

    Raises:
        InputError: the name cannot be the name of a folder.
    """
    return RunDir.at(as_path(storage) / valid_name(name, "name"))


def encoder_of(run: RunDir, model: str, encoding: EncodingConfig) -> EncoderConfig:
    """The settings `encoder.*` applied to MODEL, or to its exported encoder if MODEL is a run."""
    from hbt_ray.retrieval.encoder import EncoderConfig

    return EncoderConfig(model=str(run.model) if run.config.exists() else model, **encoding.model_dump())


def transform_file(run: RunDir, model: str, name: str) -> AnyPath:
    """The file of a transform of the model's vectors: in the model's folder, or beside the results of a hub model.

    Args:
        name: name of the transform, or its file, which is returned as it is.
    """
    from hbt_ray.retrieval.encoder import local_model_folder
    from hbt_ray.retrieval.transforms.transform import SUFFIX

    if name.endswith(SUFFIX):
        return as_path(name)
    file = f"{valid_name(name, 'posthoc')}{SUFFIX}"
    folder: AnyPath = run.model if run.config.exists() else local_model_folder(model) or run.root
    return folder / "posthoc" / file
