"""`hbt mine`: store → hard negatives."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, ModelArgument, Overrides, StoreArgument, encoder_path, find_run

if TYPE_CHECKING:
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.mining.candidates import MineConfig
    from hbt_ray.retrieval.mining.mine import MiningResult
    from hbt_ray.retrieval.mining.rescore import RescorerConfig


def mine(
    store: StoreArgument,
    model: ModelArgument,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder. Default: STORE.negatives/MODEL, beside the store.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find hard negatives: passages that a model ranks near a question although they do not answer it."""
    from hbt_ray.cli.settings import MineSettings, encoder_config
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model, local_model_folder
    from hbt_ray.retrieval.mining.mine import check_output_folder, languages_to_mine
    from hbt_ray.storage.location import is_uri

    screen = Screen(as_json)
    settings = MineSettings.load(overrides=overrides or ())
    opened = Store(store)
    run = find_run(model)
    encoder = encoder_config(settings.encoder, encoder_path(run, model))
    if settings.rescorer:
        local_model_folder(settings.rescorer.model, "cross-encoder")
    beside = Path(Path(store).name) if is_uri(store) else Path(store)
    folder = check_output_folder(out or beside.with_name(f"{beside.name}.negatives") / run.name)
    languages_to_mine(opened.manifest, settings.mining)  # Report errors before a cluster starts.
    fetch_model(encoder.model)
    if settings.rescorer:
        fetch_model(settings.rescorer.model, "cross-encoder")
    with session():
        mining = mine_store(
            opened, encoder, settings.mining, folder, name=run.name, rescorer=settings.rescorer, screen=screen
        )
    examples = [example._asdict() for example in mining.examples]
    screen.result({"negatives": folder, **mining.manifest.model_dump(mode="json"), "examples": examples})


def mine_store(
    store: Store,
    encoder: EncoderConfig,
    config: MineConfig,
    folder: Path,
    *,
    name: str,
    rescorer: RescorerConfig | None = None,
    screen: Screen,
) -> MiningResult:
    """Mine negatives into a folder and print what was found. Needs a Ray session.

    Raises:
        LockedError: another command mines into the folder.
    """
    from rich.table import Table

    from hbt_ray.retrieval.mining.candidates import DROP_REASONS
    from hbt_ray.retrieval.mining.mine import mine as mine_negatives
    from hbt_ray.storage import exclusive_lock

    screen.log(f"mining {store.manifest.num_items:,} items with {name}")
    with exclusive_lock(folder, "mining"):
        mining = mine_negatives(store, encoder, config, folder, name=name, rescorer=rescorer, screen=screen)
    table = Table(box=None, pad_edge=False)
    for column in ("data set", "language", "items", "with negatives", "mean", *DROP_REASONS):
        table.add_column(column, justify="left" if column in ("data set", "language") else "right")
    for mined in mining.manifest.datasets:
        counts = [f"{mined.num_items:,}", f"{mined.num_served:,}", f"{mined.num_negatives / mined.num_items:.1f}"]
        table.add_row(mined.name, mined.language, *counts, *(f"{mined.dropped[reason]:,}" for reason in DROP_REASONS))
    screen.table(table)
    screen.log(
        f"the last {len(DROP_REASONS)} columns count passages of ranks {config.ranks[0]} to {config.ranks[1]} that "
        "were left out"
    )
    for example in mining.examples:
        screen.log(f"{example.dataset}: {_shortened(example.question)}")
        screen.log(f"    positive {example.positive_score:.3f}  {_shortened(example.positive)}")
        screen.log(f"    negative {example.negative_score:.3f}  {_shortened(example.negative)}")
    screen.log(f"negatives are in {folder}; train with negatives={folder} plan.negatives=1")
    return mining


def _shortened(text: str, width: int = 120) -> str:
    return shorten(text, width, placeholder=" …")
