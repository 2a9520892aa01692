"""Data: sources → store, and store → mined negatives."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import shorten

from rich.table import Table

from hbt_ray.console import Screen
from hbt_ray.data.prepare import REJECTED, REMOVED, PrepareResult, StoreConfig, on_ray, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.ray_session import session
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.mining.candidates import DROP_REASONS, MineConfig
from hbt_ray.retrieval.mining.mine import MiningResult, mine
from hbt_ray.retrieval.mining.rescore import RescorerConfig
from hbt_ray.storage import exclusive_lock

_WORTH_A_CLUSTER = 32 << 20
"""Bytes of sources: reading fewer takes less time than starting Ray does."""


def make_store(config: StoreConfig, screen: Screen) -> PrepareResult:
    """Sources → store, on the cluster where that is worth its start."""
    screen.say(f"preparing {config.path}")
    if config.num_source_bytes() >= _WORTH_A_CLUSTER or os.environ.get("RAY_ADDRESS"):
        with session(spare_cpus=False):
            prepared = prepare(config, on_ray, screen)
    else:
        prepared = prepare(config, screen=screen)
    if prepared.already_existed:
        screen.say(f"{config.path} was there already and is up to date")
        return prepared
    screen.table(_store_table(prepared))
    for reason, count in prepared.rejected.most_common():
        screen.say(f"rejected: {reason}: {count:,} (see {config.path}/{REJECTED})")
    if prepared.overlapping or prepared.duplicates:
        screen.say(f"what was removed, with the texts that showed it: {config.path}/{REMOVED}")
    screen.say(
        f"{prepared.num_read:,} rows read = {prepared.num_kept:,} kept + {prepared.rejected.total():,} rejected + "
        f"{prepared.overlapping.total():,} of items that overlap with evaluation data + "
        f"{prepared.duplicates.total():,} duplicates"
    )
    return prepared


def _store_table(prepared: PrepareResult) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("data set", "items", "rows", "overlapping", "duplicates", "languages"):
        table.add_column(column, justify="left" if column in ("data set", "languages") else "right")
    for info in prepared.manifest.datasets:
        by_size = sorted(info.items_by_language.items(), key=lambda pair: -pair[1])
        languages = ", ".join(f"{language} {count:,}" for language, count in by_size[:6])
        counts = (info.num_items, sum(info.items_by_language.values()))
        gone = (prepared.overlapping[info.name], prepared.duplicates[info.name])
        more = f", and {len(by_size) - 6} more" if len(by_size) > 6 else ""
        table.add_row(info.name, *(f"{count:,}" for count in (*counts, *gone)), languages + more)
    return table


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
    """Store → mined negatives. Needs a Ray session.

    Raises:
        LockedError: another command mines into the folder.
    """
    screen.say(f"mining {store.manifest.num_items:,} items with {name}")
    with exclusive_lock(folder, "mining"):
        made = mine(store, encoder, config, folder, name=name, rescorer=rescorer, screen=screen)
    table = Table(box=None, pad_edge=False)
    for column in ("data set", "language", "items", "with negatives", "mean", *DROP_REASONS):
        table.add_column(column, justify="left" if column in ("data set", "language") else "right")
    for mined in made.manifest.datasets:
        counts = [f"{mined.num_items:,}", f"{mined.num_served:,}", f"{mined.num_negatives / mined.num_items:.1f}"]
        table.add_row(mined.name, mined.language, *counts, *(f"{mined.dropped[reason]:,}" for reason in DROP_REASONS))
    screen.table(table)
    screen.say(
        f"the last {len(DROP_REASONS)} columns count passages of ranks {config.ranks[0]} to {config.ranks[1]} left out"
    )
    for example in made.examples:
        screen.say(f"{example.dataset}: {_shortened(example.question)}")
        screen.say(f"    positive {example.positive_score:.3f}  {_shortened(example.positive)}")
        screen.say(f"    negative {example.negative_score:.3f}  {_shortened(example.negative)}")
    screen.say(f"negatives are in {folder}; train with negatives={folder} plan.negatives=1")
    return made


def _shortened(text: str, width: int = 120) -> str:
    return shorten(text, width, placeholder=" …")
