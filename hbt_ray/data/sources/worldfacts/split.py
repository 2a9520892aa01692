"""Which facts are held out: by fact, so that a test asks what training never told, of entities training has named.

Facts that give one another away (a country's time zone and its city's; a country's official language and that
language's home) stay together. Every entity of a held-out fact must remain in a training fact; groups are visited in
the order of a hash and stay in training where they hold an entity's last mention. Codes such as `KES` are named once
and so never leave training. Price: rarely mentioned entities are only ever trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal

from hbt_ray.data.sources.worldfacts.facts import Fact, Pair, facts
from hbt_ray.data.sources.worldfacts.names import LANGUAGES, Entity

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

# Of the groups, before those that have to stay in training.
_DEV_SHARE = 0.08
_TEST_SHARE = 0.14


def stable_hash(text: str) -> int:
    """64 bits that, unlike `hash`, are the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@cache
def split_facts() -> dict[Split, tuple[Fact, ...]]:
    """Each split's facts, in the order of `facts`."""
    place: dict[str, Split] = {}
    mentions = Counter(_mentions(facts()))
    groups = groups_of(facts())
    for group in sorted(groups, key=lambda group: stable_hash(group[0].key)):
        taken = Counter(_mentions(group))
        split = _wish(group)
        if any(mentions[mention] <= times for mention, times in taken.items()):
            split = "train"
        if split != "train":
            mentions -= taken
        place |= {fact.key: split for fact in group}
    return {split: tuple(fact for fact in facts() if place[fact.key] == split) for split in SPLITS}


def _mentions(told: Iterable[Fact]) -> Iterator[tuple[str, Entity]]:
    """Per language, since not every fact is spoken in all."""
    for fact in told:
        for language in LANGUAGES:
            if fact.spoken(language):
                yield from ((language, entity) for entity in fact.entities)


def _wish(group: tuple[Fact, ...]) -> Split:
    draw = stable_hash(f"split:{group[0].key}") / 2**64
    if draw < _DEV_SHARE:
        return "dev"
    return "test" if draw < _DEV_SHARE + _TEST_SHARE else "train"


def groups_of(all_facts: Iterable[Fact]) -> list[tuple[Fact, ...]]:
    """Facts connected by shared claims, each group in the given order."""
    leader: dict[Pair | str, Pair | str] = {}

    def lead(node: Pair | str) -> Pair | str:
        while leader.setdefault(node, node) != node:
            node = leader[node]
        return node

    all_facts = list(all_facts)
    for fact in all_facts:
        for claim in fact.claims:
            leader[lead(claim)] = lead(fact.key)
    groups: dict[Pair | str, list[Fact]] = {}
    for fact in all_facts:
        groups.setdefault(lead(fact.key), []).append(fact)
    return [tuple(group) for group in groups.values()]
