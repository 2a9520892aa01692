"""`hbt prepare`, `hbt store inspect` and `hbt store verify`: make a store, show it, and check its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides, StoreArgument

if TYPE_CHECKING:
    from rich.table import Table

    from hbt_ray.console import Screen
    from hbt_ray.data.prepare import PrepareResult, StoreConfig

_MIN_RAY_BYTES = 32 << 20
"""Sources of this size or more are read on Ray; smaller ones are read in less time than Ray takes to start."""


def prepare(
    config: Annotated[Path, typer.Argument(metavar="STORE.yaml")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Make a store of training items from sources."""
    from hbt_ray.console import Screen
    from hbt_ray.data.prepare import StoreConfig

    screen = Screen(as_json)
    settings = StoreConfig.load(config, overrides or ())
    prepared = make_store(settings, screen)
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
            "datasets": {info.name: info.items_by_language for info in prepared.manifest.datasets},
        }
    )


def make_store(config: StoreConfig, screen: Screen) -> PrepareResult:
    """Make a store, on Ray if the sources are large or `RAY_ADDRESS` names a cluster."""
    from hbt_ray.data.prepare import REJECTED, REMOVED, on_ray
    from hbt_ray.data.prepare import prepare as prepare_store
    from hbt_ray.ray_session import session

    screen.log(f"preparing {config.path}")
    if config.num_source_bytes() >= _MIN_RAY_BYTES or os.environ.get("RAY_ADDRESS"):
        with session(spare_cpus=False):  # No workers reserve CPUs here.
            prepared = prepare_store(config, on_ray, screen)
    else:
        prepared = prepare_store(config, screen=screen)
    if prepared.already_existed:
        screen.log(f"{config.path} was there already and is up to date")
        return prepared
    screen.table(_store_table(prepared))
    for reason, count in prepared.rejected.most_common():
        screen.log(f"rejected: {reason}: {count:,} (see {config.path}/{REJECTED})")
    if prepared.overlapping or prepared.duplicates:
        screen.log(f"removed rows, with the texts that they equal, are in {config.path}/{REMOVED}")
    screen.log(
        f"{prepared.num_read:,} rows read = {prepared.num_kept:,} kept + {prepared.rejected.total():,} rejected + "
        f"{prepared.overlapping.total():,} of items that overlap with evaluation data + "
        f"{prepared.duplicates.total():,} duplicates"
    )
    return prepared


def _store_table(prepared: PrepareResult, max_languages: int = 6) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("data set", "items", "rows", "overlapping", "duplicates", "languages"):
        table.add_column(column, justify="left" if column in ("data set", "languages") else "right")
    for info in prepared.manifest.datasets:
        by_size = sorted(info.items_by_language.items(), key=lambda pair: -pair[1])
        languages = ", ".join(f"{language} {count:,}" for language, count in by_size[:max_languages])
        more = f", and {len(by_size) - max_languages} more" if len(by_size) > max_languages else ""
        counts = (
            info.num_items,
            sum(info.items_by_language.values()),
            prepared.overlapping[info.name],
            prepared.duplicates[info.name],
        )
        table.add_row(info.name, *(f"{count:,}" for count in counts), languages + more)
    return table


def inspect_store(
    store: StoreArgument,
    sample: Annotated[int, typer.Option(min=0, max=1_000_000, metavar="N", help="Print N whole items to read.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what a store holds: datasets, languages, sizes, licences."""
    from dataclasses import asdict

    from hbt_ray.console import Screen
    from hbt_ray.data.store import stats
    from hbt_ray.data.store.store import Store, read_manifest

    screen = Screen(as_json)
    datasets = stats.dataset_stats(read_manifest(store), store)
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


def verify_store(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Compare every shard with the manifest: checksums, rows, columns, languages; exit code 2 if anything differs."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import read_manifest
    from hbt_ray.data.store.verify import raise_for_problems, verify

    screen = Screen(as_json)
    num_shards = sum(len(info.shards) for info in read_manifest(store).datasets)
    with screen.progress("shards", num_shards) as advance:
        verified = verify(store, advance)
    for problem in verified.problems:
        screen.log(str(problem))
    problems = [problem._asdict() for problem in verified.problems]
    screen.result({"store": store, **verified._asdict(), "problems": problems})
    raise_for_problems(store, verified)  # After the result, so that `--json` has it.
    shards = f"{verified.num_shards:,} shard{'s' * (verified.num_shards != 1)}"
    screen.log(f"{shards}, {verified.num_items:,} items, {verified.num_bytes:,} bytes: all as in the manifest")
