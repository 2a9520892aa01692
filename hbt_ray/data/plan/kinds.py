"""The kinds of batches: how the n-th batch of a kind fills its rows, within one dataset.

A stream (dataset, kind, language or pair) walks permutations of the items that it can use: every item once an epoch,
then a new permutation. Batch n of a stream holds the elements n·B … n·B+B-1 of that endless walk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.language_index import ItemPool, LanguageCodes, LanguageIndex
from hbt_ray.data.index.permutation import Indices, make_key, permute, uniform
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.interleave import Interleaving


class BatchRows(NamedTuple):
    """The rows of a batch, and the languages (codes) that all of them share, if any."""

    items: Indices
    question_languages: LanguageCodes
    passage_languages: LanguageCodes
    epochs: Indices
    """Of the row's stream, [rows]."""
    shared_languages: tuple[int, ...] = ()


class BatchKind(ABC):
    """One kind of batch over one dataset."""

    label: ClassVar[str]
    needs: ClassVar[str]
    """What the data must have, for messages."""

    def __init__(self, coverage: LanguageIndex, config: PlanConfig, key: int) -> None:
        self.name = coverage.name
        self._coverage, self._config, self._key = coverage, config, key

    @staticmethod
    @abstractmethod
    def can_serve(coverage: LanguageIndex) -> bool:
        """Whether the dataset has items for this kind."""

    @abstractmethod
    def rows(self, nth: int) -> BatchRows:
        """The rows of the n-th batch."""

    @property
    @abstractmethod
    def streams(self) -> dict[tuple[int, ...], int]:
        """Items of each stream of this kind, by the languages (codes) that all of its rows share, if any."""

    def share(self, serves: Callable[[tuple[str, ...]], bool]) -> float:
        """The share of rows, over whole epochs, of whose item's languages `serves` is true."""
        return self._share(self._coverage.groups_that(serves))

    @abstractmethod
    def _share(self, groups: NDArray[np.bool_]) -> float: ...

    def _walk(self, pool: ItemPool, nth: int, *stream: int) -> tuple[Indices, Indices, Indices]:
        """Items of the n-th batch of a stream, the places in its endless walk, and their epochs."""
        size = self._config.batch_size
        places = nth * size + np.arange(size, dtype=np.int64)
        epochs, numbers = np.divmod(places, pool.size)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            key = make_key(self._key, "walk", *stream, epoch)
            numbers[here] = _permute_runs(key, numbers[here], pool.size, self._config.run_length)
        return pool.items(numbers), places, epochs

    def _schedule(self, weights: np.ndarray, *name: int) -> Interleaving:
        return Interleaving(weights.tolist(), self._config.schedule, make_key(self._key, "languages", *name))


class Mono(BatchKind):
    """One language for all questions and passages (X-X-mono of 2408.10536)."""

    label, needs = "mono", "questions with a passage in the same language"

    def __init__(self, coverage: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(coverage, config, key)
        self._languages = self._schedule(coverage.language_weights)
        self._pools = {code: coverage.pool(code) for code in np.flatnonzero(coverage.language_weights).tolist()}

    @staticmethod
    def can_serve(coverage: LanguageIndex) -> bool:
        return bool(coverage.language_weights.any())

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        return {(code,): pool.size for code, pool in self._pools.items()}

    def _share(self, groups: NDArray[np.bool_]) -> float:
        return self._coverage.share_of_pairs(groups, np.diag(self._coverage.language_weights))

    def rows(self, nth: int) -> BatchRows:
        code, nth = self._languages.locate(nth)
        items, _, epochs = self._walk(self._pools[code], nth, code)
        return BatchRows(items, _constant(items, code), _constant(items, code), epochs, (code,))


class Cross(BatchKind):
    """Every row in two different languages of its own (X-Y of 2408.10536, figure 2)."""

    label, needs = "cross", "items in at least two languages"

    def __init__(self, coverage: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(coverage, config, key)
        self._pool = coverage.pool_of_breadth(2)

    @staticmethod
    def can_serve(coverage: LanguageIndex) -> bool:
        return bool(coverage.pair_weights.any())

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        return {(): self._pool.size}

    def _share(self, groups: NDArray[np.bool_]) -> float:
        return self._coverage.share_of_breadth(groups, 2)

    def rows(self, nth: int) -> BatchRows:
        items, places, epochs = self._walk(self._pool, nth)
        first, second = (uniform(make_key(self._key, side), places) for side in ("question", "passage"))
        return BatchRows(items, *self._coverage.draw_pair(items, first, second), epochs)


class CrossPair(BatchKind):
    """One ordered pair of different languages for the whole batch."""

    label, needs = Cross.label, Cross.needs

    def __init__(self, coverage: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(coverage, config, key)
        self._questions = self._schedule(coverage.pair_weights.sum(axis=1))
        # A hundred languages make 9,900 streams: built when their turn comes.
        self._passages = lru_cache(maxsize=None)(lambda code: self._schedule(coverage.pair_weights[code], code))
        self._pools = lru_cache(maxsize=None)(coverage.pool)

    can_serve = staticmethod(Cross.can_serve)

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        pairs, shared = np.argwhere(self._coverage.pair_weights > 0).tolist(), self._coverage.shared
        return {(question, passage): int(shared[question, passage]) for question, passage in pairs}

    def _share(self, groups: NDArray[np.bool_]) -> float:
        return self._coverage.share_of_pairs(groups, self._coverage.pair_weights)

    def rows(self, nth: int) -> BatchRows:
        question, nth = self._questions.locate(nth)
        passage, nth = self._passages(question).locate(nth)
        items, _, epochs = self._walk(self._pools(question, passage), nth, question, passage)
        return BatchRows(items, _constant(items, question), _constant(items, passage), epochs, (question, passage))


class Mixed(BatchKind):
    """Same-language rows of many languages in one batch (LAReQA's X-X): language gives the answer away; a control."""

    label, needs = "mixed", Mono.needs

    def __init__(self, coverage: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(coverage, config, key)
        self._pool = coverage.pool_of_breadth(1)

    can_serve = staticmethod(Mono.can_serve)

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        return {(): self._pool.size}

    def _share(self, groups: NDArray[np.bool_]) -> float:
        return self._coverage.share_of_breadth(groups, 1)

    def rows(self, nth: int) -> BatchRows:
        items, places, epochs = self._walk(self._pool, nth)
        codes = self._coverage.draw_language(items, uniform(make_key(self._key, "language"), places))
        return BatchRows(items, codes, codes, epochs)


def _constant(items: Indices, code: int) -> LanguageCodes:
    return np.full(len(items), code, dtype=np.int16)


def _permute_runs(key: int, numbers: Indices, size: int, run_length: int) -> Indices:
    """A keyed permutation that moves runs as a whole; what does not fill a run stays one shorter run.

    The rotation gives the short run another place in every epoch.
    """
    num_runs = size // run_length
    runs, within = np.divmod(numbers, run_length)
    whole = runs < num_runs
    runs[whole] = permute(key, runs[whole], num_runs)
    return (runs * run_length + within + make_key(key, "rotation") % size) % size
