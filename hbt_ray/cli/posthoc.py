"""`hbt posthoc`: store → a transform that removes the language from a model's vectors, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, ModelArgument, Overrides, encoder_of, find_run, transform_file

if TYPE_CHECKING:
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.retrieval.encoder import EncodedTexts, EncoderConfig
    from hbt_ray.retrieval.transforms import Method, Transform
    from hbt_ray.storage import AnyPath


def posthoc(
    model: ModelArgument,
    store: Annotated[str, typer.Option(help="Store with the texts to fit on: a folder or a URI.")],
    method: Annotated[str, typer.Option(help="centering, lir or shift.")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: posthoc/METHOD[-documents].safetensors in the model's folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a transform that removes the language from a model's vectors; `evaluate MODEL posthoc=NAME` uses it."""
    from hbt_ray.cli.settings import PosthocSettings
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store as OpenStore
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.transforms.transform import check_transform_path

    screen = Screen(as_json)
    settings = PosthocSettings.load(overrides=[f"method.kind={method}", *(overrides or ())])
    documents_only = getattr(settings.method, "documents_only", False)  # Not every method has the option.
    opened = OpenStore(store)
    run = find_run(model, settings.name, settings.storage_path)
    path = check_transform_path(out or transform_file(run, model, method + "-documents" * documents_only))
    encoder = encoder_of(run, model, settings.encoder)
    fetch_model(encoder.model)
    with session():
        transform = fit_transform(opened, encoder, settings.method, path, run.vectors, screen)
    screen.log(f"`hbt evaluate {model} posthoc={out or transform.name}` evaluates the model with it")
    screen.result(
        {
            "posthoc": path,
            "method": settings.method.model_dump(mode="json"),
            "encoder": transform.encoder,
            "texts": transform.texts,
        }
    )


def fit_transform(
    store: Store, encoder: EncoderConfig, method: Method, path: AnyPath, cache: Path, screen: Screen
) -> Transform:
    """Fit a transform of the encoder's vectors and save it in the file `path`. Needs a Ray session.

    Args:
        cache: folder of cached vectors; methods that are fitted on the same texts share them.
    """
    from hbt_ray.retrieval.encoder import encode
    from hbt_ray.retrieval.transforms import fit_to_store
    from hbt_ray.retrieval.transforms.transform import SUFFIX
    from hbt_ray.storage import exclusive_lock

    def encode_texts(questions: Sequence[str], passages: Sequence[str]) -> EncodedTexts:
        screen.log(f"{method.kind}: encoding {len(questions):,} questions and {len(passages):,} passages")
        with screen.progress(f"{method.kind}: encoding", len(questions) + len(passages)) as advance:
            return encode(encoder, questions, passages, advance, cache=cache)

    with exclusive_lock(path, "fitting"):
        transform = fit_to_store(store, method, encode_texts, name=path.name.removesuffix(SUFFIX))
        transform.save(path)
    for side in method.sides:
        counts = ", ".join(f"{language} {count:,}" for language, count in transform.texts[side].items())
        screen.log(f"{side}s fitted on: {counts}")
        fitted = {*transform.texts[side], method.anchor}
        if missing := [tag for tag in method.languages or store.manifest.languages if tag not in fitted]:
            screen.log(f"{side}s in {', '.join(missing)} are too few to fit on, so their vectors stay unchanged")
    screen.log(f"the transform is in {path}")
    return transform
