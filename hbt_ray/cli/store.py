"""`hbt store inspect` and `hbt store verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_ray.cli.options import JsonOption, StoreArgument


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
    raise_for_problems(store, verified)
    shards = f"{verified.num_shards:,} shard{'s' * (verified.num_shards != 1)}"
    screen.log(f"{shards}, {verified.num_items:,} items, {verified.num_bytes:,} bytes: all as in the manifest")
