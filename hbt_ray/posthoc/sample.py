"""The sample: texts of a store to learn from, by side and language, spread evenly over all that it has of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbt_ray.data.plan.coverage import Coverage
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.posthoc.methods import Method


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts of one side and language."""

    side: str
    language: str
    texts: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    """Text by text the same in the anchor's language, where the method has one."""


def draw(store: Store, method: Method) -> list[Sample]:
    """What the method learns from, always the same. Where languages have the same items, theirs are parallel texts.

    Languages with fewer texts than the method needs are left out.

    Raises:
        ConfigError: the store lacks the anchor's language, or no language has enough texts.
    """
    languages, anchor = store.manifest.languages, method.anchor
    if anchor is not None and anchor not in languages:
        raise ConfigError(f"source={anchor}: no item of the store has it; its languages are {', '.join(languages)}")
    coverages = [Coverage(info, languages, 0.0) for info in store.manifest.datasets]
    drawn = [
        _of_language(store, coverages, method, side, language)
        for side in method.sides
        for language in languages
        if language != anchor
    ]
    enough = [sample for sample in drawn if len(sample.texts) >= method.least]
    if not enough:
        between = "" if anchor is None else f" that {anchor} has as well"
        raise ConfigError(f"no language of the store has {method.least} items{between}, so nothing can be learned")
    return enough


def _of_language(store: Store, coverages: list[Coverage], method: Method, side: str, language: str) -> Sample:
    languages = store.manifest.languages
    wanted = [language] if method.anchor is None else [language, method.anchor]
    codes = [languages.index(name) for name in wanted]
    pools = [coverage.pool(*codes) for coverage in coverages]
    ends = np.cumsum([0, *(pool.size for pool in pools)])
    count = min(method.texts, int(ends[-1]))
    numbers = np.arange(count) * int(ends[-1]) // max(count, 1)
    texts: list[list[str]] = [[] for _ in codes]
    for coverage, pool, start, end in zip(coverages, pools, ends[:-1], ends[1:], strict=True):
        items = pool.items(numbers[(numbers >= start) & (numbers < end)] - start)
        for found, code in zip(texts, codes, strict=True):
            if len(items):
                found += store.texts_of(coverage.name, side, items, np.full(len(items), code, np.int16), languages)
    return Sample(side, language, *map(tuple, texts))
