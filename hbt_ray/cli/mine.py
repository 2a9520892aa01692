"""`hbt mine`: store → hard negatives."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, ModelArgument, Overrides, StoreArgument, encoder_of, find_run

if TYPE_CHECKING:
    from hbt_ray.console import Screen
    from hbt_ray.retrieval.mining.mine import MiningResult


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
    from hbt_ray.cli.settings import MineSettings
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model, local_model_folder
    from hbt_ray.retrieval.mining.mine import check_output_folder, languages_to_mine
    from hbt_ray.retrieval.mining.mine import mine as mine_negatives
    from hbt_ray.storage.object_store import is_uri

    screen = Screen(as_json)
    settings = MineSettings.load(overrides=overrides or ())
    opened = Store(store)
    run = find_run(model)
    encoder = encoder_of(run, model, settings.encoder)
    if settings.rescorer:
        local_model_folder(settings.rescorer.model, "cross-encoder")
    # The negatives of a remote store go into the working directory.
    beside = Path(Path(store).name) if is_uri(store) else Path(store)
    folder = check_output_folder(out or beside.with_name(f"{beside.name}.negatives") / run.name)
    languages_to_mine(opened.manifest, settings.mining)  # Report errors before a cluster starts.
    fetch_model(encoder.model)
    if settings.rescorer:
        fetch_model(settings.rescorer.model, "cross-encoder")
    screen.log(f"mining {opened.manifest.num_items:,} items with {run.name}")
    with session():
        mining = mine_negatives(
            opened, encoder, settings.mining, folder, name=run.name, rescorer=settings.rescorer, screen=screen
        )
    _print_mining(screen, mining, settings.mining.ranks)
    screen.log(f"negatives are in {folder}; train with negatives={folder} plan.negatives=1")
    examples = [example._asdict() for example in mining.examples]
    screen.result({"negatives": folder, **mining.manifest.model_dump(mode="json"), "examples": examples})


def _print_mining(screen: Screen, mining: MiningResult, ranks: tuple[int, int]) -> None:
    from rich.table import Table

    from hbt_ray.retrieval.mining.candidates import DROP_REASONS

    table = Table(box=None, pad_edge=False)
    for column in ("data set", "language", "items", "with negatives", "mean", *DROP_REASONS):
        table.add_column(column, justify="left" if column in ("data set", "language") else "right")
    for mined in mining.manifest.datasets:
        counts = [f"{mined.num_items:,}", f"{mined.num_served:,}", f"{mined.num_negatives / mined.num_items:.1f}"]
        table.add_row(mined.name, mined.language, *counts, *(f"{mined.dropped[reason]:,}" for reason in DROP_REASONS))
    screen.table(table)
    screen.log(
        f"the last {len(DROP_REASONS)} columns count passages of ranks {ranks[0]} to {ranks[1]} that were left out"
    )
    for example in mining.examples:
        screen.log(f"{example.dataset}: {_shortened(example.question)}")
        screen.log(f"    positive {example.positive_score:.3f}  {_shortened(example.positive)}")
        screen.log(f"    negative {example.negative_score:.3f}  {_shortened(example.negative)}")


def _shortened(text: str, width: int = 120) -> str:
    return shorten(text, width, placeholder=" …")
