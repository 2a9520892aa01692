"""The sample: texts of a store to learn from, by side and language, spread evenly over all that it has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.transforms.methods import Method


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
        ConfigError: the store lacks the anchor's language or one that is asked for, or no language has enough texts.
    """
    anchor, there = method.anchor, store.manifest.languages
    _require("source", [] if anchor is None else [anchor], there)
    _require("languages", method.languages, there)
    coverages = [LanguageIndex(info, there, 0.0) for info in store.manifest.chosen(method.datasets)]
    drawn = [
        _of_language(store, coverages, method, side, language)
        for side in method.sides
        for language in method.languages or there
        if language != anchor
    ]
    enough = [sample for sample in drawn if len(sample.texts) >= method.least]
    if not enough:
        between = "" if anchor is None else f" that {anchor} has as well"
        raise ConfigError(f"no language of the store has {method.least} items{between}, so nothing can be learned")
    return enough


def _require(what: str, languages: Sequence[str], there: Sequence[str]) -> None:
    if unknown := [language for language in languages if language not in there]:
        raise ConfigError(
            f"{what}={','.join(unknown)}: no item of the store has it; its languages are {', '.join(there)}"
        )


def _of_language(store: Store, coverages: list[LanguageIndex], method: Method, side: str, language: str) -> Sample:
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
