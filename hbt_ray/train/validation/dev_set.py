"""The dev pool: questions and passages drawn once from a dev store, the same in any process, for any world size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.index.manifest import DatasetInfo, Manifest
from hbt_ray.data.index.permutation import Indices, make_key, permute
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.train.validation.config import ValidationConfig

Codes = NDArray[np.int16]
_TRIES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, eq=False)
class DevSet:
    """Each question stands in one language, its passage in all that it has; ties in a ranking go to the greater row."""

    languages: tuple[str, ...]
    questions: list[str]
    question_languages: Codes
    """[questions], numbers of `languages`."""
    right_keys: Indices
    """[questions, n]: keys of the passages that answer; one of them is repeated where there are fewer than n."""
    passages: list[str]
    passage_languages: Codes
    passage_keys: Indices
    """[passages]; equal for all versions of a passage."""


def dev_languages(manifest: Manifest, config: ValidationConfig) -> tuple[str, ...]:
    """Raises: ConfigError where the dev store lacks one that the configuration names."""
    if lacking := sorted(set(config.languages) - set(manifest.languages)):
        raise ConfigError(
            f"validation.languages: {config.store} has nothing in {', '.join(lacking)}; it has "
            f"{', '.join(manifest.languages)}"
        )
    return config.languages or manifest.languages


def fingerprint(manifest: Manifest, config: ValidationConfig) -> str:
    """Equal where measures can be compared: the same texts, the same temperature."""
    languages = dev_languages(manifest, config)
    return f"{make_key(manifest.checksum, languages, config.items, config.seed, config.temperature):016x}"


def make_dev_set(store: Store, config: ValidationConfig) -> DevSet:
    """Draw the pool. Data sets that hold fewer items than their even share give all that they have.

    A passage stands in it once in each language, whatever the number of its items, ids and data sets.
    """
    languages = dev_languages(store.manifest, config)
    parts = []
    infos = store.manifest.datasets
    for info, count in zip(infos, _shares([info.num_items for info in infos], config.items), strict=True):
        items, codes = draw_items(info, languages, count, make_key(config.seed, "validation", info.name))
        if len(items):
            parts.append(_part(store, info.name, items, codes, languages))
    if not parts:
        raise ConfigError(f"validation.store={config.store}: no item in {', '.join(languages)}; name other languages")
    return _joined(parts, languages)


def draw_items(info: DatasetInfo, languages: Sequence[str], count: int, key: int) -> tuple[Indices, Codes]:
    """`count` different items and the language each is asked in, the languages in turn; fewer if there are no more.

    A language takes items in the order of a permutation of its own, so that a sample is the head of any larger one
    of the same languages.
    """
    coverage = LanguageIndex(info, languages, 0.0)
    orders = {code: _Order(coverage, code, make_key(key, language)) for code, language in enumerate(languages)}
    taken: dict[int, int] = {}
    turns = cycle(list(orders))
    while len(taken) < count and orders:
        code = next(turns)
        if code in orders and (item := orders[code].next_but(taken)) is not None:
            taken[item] = code
        else:
            orders.pop(code, None)
    return np.array(list(taken), np.int64), np.array(list(taken.values()), np.int16)


class _Order:
    """The items of a language in a random order, some at a time: the data set may be large."""

    def __init__(self, coverage: LanguageIndex, code: int, key: int) -> None:
        self._pool, self._key, self._place = coverage.pool(code), key, 0
        self._ahead: list[int] = []

    def next_but(self, taken: dict[int, int]) -> int | None:
        """The next one that is not taken; None where there is none."""
        while True:
            if not self._ahead:
                stop = min(self._place + _TRIES_AT_ONCE, self._pool.size)
                numbers = permute(self._key, np.arange(self._place, stop), self._pool.size)
                self._ahead, self._place = self._pool.items(numbers).tolist()[::-1], stop
            if not self._ahead:
                return None
            if (item := self._ahead.pop()) not in taken:
                return item


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Even shares; what a small data set cannot give, the others do."""
    shares = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    for position, number in enumerate(order):
        shares[number] = min(sizes[number], -(-total // (len(order) - position)))
        total -= shares[number]
    return shares


class _Part(NamedTuple):
    """What one data set gives to the pool."""

    questions: list[str]
    question_languages: Codes
    right_keys: Indices
    """[questions, n]"""
    passages: dict[tuple[int, int], str]
    """Key and language of a passage → its text."""


def _part(store: Store, dataset: str, items: Indices, codes: Codes, languages: tuple[str, ...]) -> _Part:
    right_keys = store.right_keys(dataset, items)
    # Items may share a passage, and one of them may have it in a language that the other lacks.
    passages: dict[tuple[int, int], str] = {}
    for code in range(len(languages)):
        column = np.full(len(items), code, np.int16)
        texts = store.texts_of(dataset, "passage", items, column, languages)
        for key, text in zip(right_keys[:, 0].tolist(), texts, strict=True):
            if text:
                passages.setdefault((key, code), text)
    return _Part(store.texts_of(dataset, "question", items, codes, languages), codes, right_keys, passages)


def _joined(parts: list[_Part], languages: tuple[str, ...]) -> DevSet:
    """All parts; keys are those of the store, so data sets may share passages."""
    passages: dict[tuple[int, int], str] = {}
    for part in parts:
        passages |= {place: text for place, text in part.passages.items() if place not in passages}
    width = max(part.right_keys.shape[1] for part in parts)
    return DevSet(
        languages,
        [text for part in parts for text in part.questions],
        np.concatenate([part.question_languages for part in parts]),
        np.concatenate([np.pad(p.right_keys, ((0, 0), (0, width - p.right_keys.shape[1])), "edge") for p in parts]),
        list(passages.values()),
        np.array([code for _, code in passages], np.int16),
        np.array([key for key, _ in passages], np.int64),
    )


Floats = NDArray[np.float32]
AP, MONO_AP, CROSS_AP, POOL_LOSS, RANK_DISTANCE = "AP", "mono_AP", "cross_AP", "pool_loss", "RankDistance"
"""AP in the pool of all languages, within the question's language, in each other one; the loss over the pool; how far
apart a question's answers stand in the pool, the worst rank minus the best."""


def dev_measures(questions: Floats, passages: Floats, pool: DevSet, temperature: float) -> dict[str, float]:
    """Name → value; a setting that the pool has no pair for is left out.

    Args:
        questions: [questions, width], as the pool's, unit length.
        passages: [passages, width], as the pool's.
    """
    scores = _scores(questions, passages)
    pairs: dict[tuple[int, int], list[float]] = defaultdict(list)
    pooled: dict[int, list[float]] = defaultdict(list)
    distances: dict[int, list[float]] = defaultdict(list)
    losses = []
    for row, right_keys, asked in zip(scores, pool.right_keys, pool.question_languages.tolist(), strict=True):
        relevant = np.isin(pool.passage_keys, right_keys)
        losses.append(_losses(row, relevant, temperature))
        order = np.argsort(row, kind="stable")[::-1]
        hits, languages = relevant[order], pool.passage_languages[order]
        pooled[asked].append(_average_precision(hits))
        distances[asked].append(float(np.ptp(np.flatnonzero(hits))))
        for found in np.unique(languages[hits]).tolist():
            pairs[asked, found].append(_average_precision(hits[languages == found]))
    settings = {
        AP: list(pooled.values()),
        MONO_AP: [values for (asked, found), values in pairs.items() if asked == found],
        CROSS_AP: [values for (asked, found), values in pairs.items() if asked != found],
        RANK_DISTANCE: list(distances.values()),
    }
    found_means = {name: float(np.mean([np.mean(values) for values in of])) for name, of in settings.items() if of}
    return {**found_means, POOL_LOSS: float(np.concatenate(losses).mean())}


def _scores(questions: Floats, passages: Floats) -> Floats:
    """[questions, passages]; rounded, so that vectors that are equal tie whatever order BLAS adds them in."""
    return (questions.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)


def _average_precision(hits: NDArray[np.bool_]) -> float:
    """Of a ranking, best first; at least one hit."""
    ranks = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def _losses(scores: Floats, relevant: NDArray[np.bool_], temperature: float) -> NDArray[np.float64]:
    """One a relevant passage."""
    logits = scores.astype(np.float64) / temperature
    others = np.logaddexp.reduce(logits[~relevant], initial=-np.inf)
    losses: NDArray[np.float64] = np.logaddexp(logits[relevant], others) - logits[relevant]
    return losses
