"""Options that several commands have, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.mining.rescore import RescorerConfig

StorePath = Annotated[str, typer.Argument(metavar="STORE", help="A folder, or a URI such as s3://bucket/store.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder or a Hugging Face name.")]
QuestionPrompt = Annotated[
    str | None, typer.Option(help="Before every question, such as 'query: '; default: the model's own.")
]
PassagePrompt = Annotated[str | None, typer.Option(help="Before every passage, such as 'passage: '.")]
MaxLength = Annotated[int | None, typer.Option(min=3, max=1_000_000, help="Tokens of the longest text.")]
BatchSize = Annotated[int, typer.Option(min=1, max=1_000_000, help="Texts of one forward pass.")]
EncodingWorkers = Annotated[int, typer.Option(min=1, max=10_000, help="Encoding processes.")]
EncodingGpu = Annotated[bool, typer.Option("--gpu", help="One GPU for each encoding process.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as plan.alpha=0.3")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
]


def listed(names: str) -> list[str]:
    """The names of an option such as `--datasets faq,docs`."""
    return [name.strip() for name in names.split(",") if name.strip()]


def language_tags(names: str) -> list[str]:
    """The canonical tags of an option such as `--languages en,de`.

    Raises:
        ConfigError: one is no language.
    """
    from hbt_ray.errors import ConfigError
    from hbt_ray.languages.tags import normalise_tag

    try:
        return list(dict.fromkeys(map(normalise_tag, listed(names))))
    except ValueError as error:
        raise ConfigError(f"--languages: {error}", code="INVALID_LANGUAGE") from None


def encoder_of(model: str, **options: Any) -> EncoderConfig:
    """How a command runs a model, from the options above."""
    from hbt_ray.retrieval.encoder import EncoderConfig

    return EncoderConfig.make({"model": model, **options}, "the command line")


def rescorer_of(model: str, **options: Any) -> RescorerConfig:
    from hbt_ray.retrieval.encoder import model_folder
    from hbt_ray.retrieval.mining.rescore import RescorerConfig

    model_folder(model, "cross-encoder")  # What is no model shows before a cluster starts.
    return RescorerConfig.make({"model": model, **options}, "the command line")
