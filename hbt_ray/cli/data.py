"""Commands on data: prepare, mine, and a look into stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_ray.cli.app import app, store_app
from hbt_ray.cli.options import (
    AsJson,
    BatchSize,
    EncodingGpu,
    EncodingWorkers,
    MaxLength,
    ModelName,
    Overrides,
    PassagePrompt,
    QuestionPrompt,
    StorePath,
    encoder_of,
    listed,
    rescorer_of,
)


@app.command()
def prepare(
    config: Annotated[Path, typer.Argument(metavar="STORE.yaml")], overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Make a store of training items from sources."""
    from hbt_ray.console import Screen
    from hbt_ray.data.prepare import StoreConfig
    from hbt_ray.workflow.data import make_store

    screen = Screen(as_json)
    settings = StoreConfig.load(config, overrides or ())
    prepared = make_store(settings, screen)
    datasets = {info.name: info.items_by_language for info in prepared.manifest.datasets}
    screen.result(
        {
            "store": settings.path,
            "num_items": prepared.manifest.num_items,
            "num_read": prepared.num_read,
            "num_kept": prepared.num_kept,
            "rejected": prepared.rejected,
            "overlapping": prepared.overlapping,
            "duplicates": prepared.duplicates,
            "already_existed": prepared.already_existed,
            "datasets": datasets,
        }
    )


@app.command()
def mine(
    store: StorePath,
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Default: STORE.negatives/MODEL, beside the store.")] = None,
    language: Annotated[
        str | None, typer.Option(help="To compare texts in; default: for each data set the one that most items have.")
    ] = None,
    datasets: Annotated[str, typer.Option(help="Mine these data sets of the store alone; default: all.")] = "",
    ranks: Annotated[str, typer.Option(help="First and last rank of a negative among all other passages.")] = "1:100",
    max_share: Annotated[float, typer.Option(help="It scores below this share of the positive's score.")] = 0.95,
    margin: Annotated[float, typer.Option(help="It scores below the positive's score less this.")] = 0.0,
    keep: Annotated[int, typer.Option(help="Negatives of an item at most.")] = 10,
    rescore: Annotated[
        str | None,
        typer.Option(metavar="CROSSENCODER", help="Whose scores are kept, for distillation; default: MODEL's."),
    ] = None,
    question_prompt: QuestionPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    workers: EncodingWorkers = 1,
    gpu: EncodingGpu = False,
    as_json: AsJson = False,
) -> None:
    """Find hard negatives: passages that a model takes for answers to questions of other items."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.mining.candidates import MineConfig
    from hbt_ray.retrieval.mining.mine import check_output_folder, languages_to_mine
    from hbt_ray.storage.location import is_uri
    from hbt_ray.workflow.data import mine_store
    from hbt_ray.workflow.judging import find_run

    screen = Screen(as_json)
    values = {
        "language": language,
        "datasets": listed(datasets),
        "ranks": ranks,
        "max_share": max_share,
        "margin": margin,
        "keep": keep,
    }
    settings = MineConfig.make(values, "the command line")
    opened = Store(store)
    run = find_run(model, "", Path())
    encoder = encoder_of(
        str(run.model) if run.config.exists() else model,
        question_prompt=question_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
        gpu=gpu,
    )
    rescorer = rescorer_of(rescore, batch_size=batch_size, workers=workers, gpu=gpu) if rescore else None
    beside = Path(Path(store).name) if is_uri(store) else Path(store)
    folder = check_output_folder(out or beside.with_name(f"{beside.name}.negatives") / run.name)
    languages_to_mine(opened.manifest, settings)  # What is wrong shows before a cluster starts.
    fetch_model(encoder.model)
    if rescorer:
        fetch_model(rescorer.model, "cross-encoder")
    with session():
        made = mine_store(opened, encoder, settings, folder, name=run.name, rescorer=rescorer, screen=screen)
    examples = [example._asdict() for example in made.examples]
    screen.result({"negatives": folder, **made.manifest.model_dump(mode="json"), "examples": examples})


@store_app.command("inspect")
def inspect_store(
    store: StorePath,
    sample: Annotated[int, typer.Option(min=0, max=1_000_000, metavar="N", help="Print N whole items to read.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what a store holds: datasets, languages, sizes, licences."""
    from dataclasses import asdict

    from hbt_ray.console import Screen
    from hbt_ray.data.store import stats
    from hbt_ray.data.store.store import Store, read_manifest

    screen = Screen(as_json)
    manifest = read_manifest(store)
    datasets = stats.dataset_stats(manifest, store)
    screen.table(stats.dataset_table(datasets))
    screen.text()
    screen.table(stats.language_table(datasets))
    items = stats.sample_items(Store(store), sample) if sample else []
    for item in items:
        screen.text(stats.item_text(item))
    screen.result(
        {
            "store": store,
            "datasets": [asdict(dataset) for dataset in datasets],
            "sample": [asdict(item) for item in items],
        }
    )


@store_app.command("verify")
def verify_store(store: StorePath, as_json: AsJson = False) -> None:
    """Compare every shard with the manifest: checksums, rows, columns, languages; exit code 2 if anything differs."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import read_manifest
    from hbt_ray.data.store.verify import raise_for_problems, verify

    screen = Screen(as_json)
    num_shards = sum(len(info.shards) for info in read_manifest(store).datasets)
    with screen.counting("shards", num_shards) as advance:
        verified = verify(store, advance)
    for problem in verified.problems:
        screen.say(str(problem))
    screen.result({"store": store, **verified._asdict(), "problems": [one._asdict() for one in verified.problems]})
    raise_for_problems(store, verified)
    shards = f"{verified.num_shards:,} shard{'s' * (verified.num_shards != 1)}"
    screen.say(f"{shards}, {verified.num_items:,} items, {verified.num_bytes:,} bytes: all as the manifest says")
