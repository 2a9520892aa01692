"""The kinds of batches: rows and negatives of the n-th batch of a kind within one dataset.

A stream (dataset, kind, language or pair) walks permutations of the items that it can use: every item once per epoch,
then a new permutation. Batch n of a stream holds the elements n·B … n·B+B-1 of that endless walk.

Mined negatives are a function of (item, epoch, language of the passage): of the m negatives of an item that exist in
the passage's language (a monolingual batch must stay monolingual), epoch e of a stream takes n. The first position
depends on the item and the stream, and advances by n in every epoch. So all m are used before one is repeated, and
neither the number of ranks nor a resume changes the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.language_index import ItemPool, LanguageCodes, LanguageIndex
from hbt_ray.data.index.permutation import Indices, make_key, permute, uniform
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.interleave import Interleaving

NO_NEGATIVE = -1
"""Item number of a missing negative."""


class BatchRows(NamedTuple):
    """The rows of a batch, and the languages (codes) that all of them share, if any."""

    items: Indices
    question_languages: LanguageCodes
    passage_languages: LanguageCodes
    epochs: Indices
    """Epoch of the row's stream, [rows]."""
    shared_languages: tuple[int, ...] = ()


class BatchKind(ABC):
    """One kind of batch over one dataset."""

    label: ClassVar[str]
    needs: ClassVar[str]
    """Data that the kind requires, for error messages."""

    def __init__(self, index: LanguageIndex, config: PlanConfig, key: int) -> None:
        self.name = index.name
        self._index, self._config, self._key = index, config, key

    @staticmethod
    @abstractmethod
    def can_serve(index: LanguageIndex) -> bool:
        """Whether the dataset has items for this kind of batch."""

    @abstractmethod
    def rows(self, nth: int) -> BatchRows:
        """The rows of the n-th batch."""

    @property
    @abstractmethod
    def streams(self) -> dict[tuple[int, ...], int]:
        """Number of items of each stream, by the languages (codes) that all of its rows share, if any."""

    def _walk(self, pool: ItemPool, nth: int, *stream: int) -> tuple[Indices, Indices, Indices]:
        """Items of the n-th batch of a stream, their positions in its endless walk, and their epochs, [rows] each."""
        size = self._config.batch_size
        positions = nth * size + np.arange(size, dtype=np.int64)
        # `numbers` are places in the epoch's permutation, replaced below by pool numbers.
        epochs, numbers = np.divmod(positions, pool.size)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):  # A batch may span the end of an epoch, or several.
            in_epoch = epochs == epoch
            key = make_key(self._key, "walk", *stream, epoch)
            numbers[in_epoch] = _permute_runs(key, numbers[in_epoch], pool.size, self._config.run_length)
        return pool.items(numbers), positions, epochs

    def _interleaving(self, weights: NDArray[np.float64], *name: int) -> Interleaving:
        return Interleaving(weights.tolist(), make_key(self._key, "languages", *name))


class Mono(BatchKind):
    """One language for all questions and passages (X-X-mono of 2408.10536)."""

    label, needs = "mono", "questions with a passage in the same language"

    def __init__(self, index: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(index, config, key)
        self._languages = self._interleaving(index.language_weights)
        self._pools = {code: index.pool(code) for code in np.flatnonzero(index.language_weights).tolist()}

    @staticmethod
    def can_serve(index: LanguageIndex) -> bool:
        return bool(index.language_weights.any())

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        return {(code,): pool.size for code, pool in self._pools.items()}

    def rows(self, nth: int) -> BatchRows:
        code, nth = self._languages.locate(nth)
        items, _, epochs = self._walk(self._pools[code], nth, code)
        return BatchRows(items, _constant(items, code), _constant(items, code), epochs, (code,))


class Cross(BatchKind):
    """Question and passage in different languages, drawn for every row (X-Y of 2408.10536, figure 2)."""

    label, needs = "cross", "items in at least two languages"

    def __init__(self, index: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(index, config, key)
        self._pool = index.pool_of_min_languages(2)

    @staticmethod
    def can_serve(index: LanguageIndex) -> bool:
        return bool(index.pair_weights.any())

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        return {(): self._pool.size}

    def rows(self, nth: int) -> BatchRows:
        items, positions, epochs = self._walk(self._pool, nth)
        # Indexed by position and not by item: an item gets new languages in every epoch.
        first, second = (uniform(make_key(self._key, side), positions) for side in ("question", "passage"))
        return BatchRows(items, *self._index.draw_pair(items, first, second), epochs)


class CrossPair(BatchKind):
    """One ordered pair of different languages for the whole batch."""

    label, needs = Cross.label, Cross.needs

    def __init__(self, index: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(index, config, key)
        # First the question's language by the weight of all its pairs, then the passage's.
        self._questions = self._interleaving(index.pair_weights.sum(axis=1))
        # A hundred languages make 9,900 streams, so each is built when it is first used.
        self._passages = lru_cache(maxsize=None)(lambda code: self._interleaving(index.pair_weights[code], code))
        self._pools = lru_cache(maxsize=None)(index.pool)

    can_serve = staticmethod(Cross.can_serve)

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        pairs, shared = np.argwhere(self._index.pair_weights > 0).tolist(), self._index.shared
        return {(question, passage): int(shared[question, passage]) for question, passage in pairs}

    def rows(self, nth: int) -> BatchRows:
        question, nth = self._questions.locate(nth)
        passage, nth = self._passages(question).locate(nth)
        items, _, epochs = self._walk(self._pools(question, passage), nth, question, passage)
        return BatchRows(items, _constant(items, question), _constant(items, passage), epochs, (question, passage))


class Mixed(BatchKind):
    """Same-language rows of many languages (LAReQA's X-X), a control: language alone separates most negatives."""

    label, needs = "mixed", Mono.needs

    def __init__(self, index: LanguageIndex, config: PlanConfig, key: int) -> None:
        super().__init__(index, config, key)
        self._pool = index.pool_of_min_languages(1)

    can_serve = staticmethod(Mono.can_serve)

    @property
    def streams(self) -> dict[tuple[int, ...], int]:
        return {(): self._pool.size}

    def rows(self, nth: int) -> BatchRows:
        items, positions, epochs = self._walk(self._pool, nth)
        codes = self._index.draw_language(items, uniform(make_key(self._key, "language"), positions))
        return BatchRows(items, codes, codes, epochs)


def _constant(items: Indices, code: int) -> LanguageCodes:
    return np.full(len(items), code, dtype=np.int16)


def _permute_runs(key: int, numbers: Indices, size: int, run_length: int) -> Indices:
    """A keyed permutation that moves runs as a whole. The last run may be shorter and is not permuted.

    The rotation gives the short run another position in every epoch.
    """
    num_runs = size // run_length
    runs, within = np.divmod(numbers, run_length)  # A run's number, and the position in the run, [rows] each.
    whole = runs < num_runs
    runs[whole] = permute(key, runs[whole], num_runs)
    # The short run at the end has number `num_runs`, which `permute` does not move.
    return (runs * run_length + within + make_key(key, "rotation") % size) % size


def no_negatives(num_rows: int, per_row: int) -> Indices:
    """An array [num_rows, per_row] without any negative."""
    return np.full((num_rows, per_row), NO_NEGATIVE, dtype=np.int64)


class NegativeSampler:
    """The negatives of the rows of one dataset.

    Args:
        negatives: [items, m] item numbers, -1 for none.
        per_row: number n of negatives of a row; if an item has fewer, the rest is -1.
    """

    def __init__(self, negatives: Indices, index: LanguageIndex, per_row: int, seed: int) -> None:
        self._negatives, self._index, self._per_row = negatives, index, per_row
        self._key = make_key(seed, index.name, "negatives")

    def sample(self, rows: BatchRows, kind: str) -> Indices:
        """Draw negatives for the rows of a batch: item numbers [rows, n], -1 for none."""
        candidates = self._negatives.take(rows.items, axis=0)  # [rows, m]
        eligible = self._index.exist_in(candidates, rows.passage_languages)
        counts = np.count_nonzero(eligible, axis=1)
        chance = uniform(make_key(self._key, kind, *rows.shared_languages), rows.items)
        # Each epoch continues where the one before stopped.
        start = (chance * counts).astype(np.int64) + rows.epochs * self._per_row
        # The eligible candidates lie end to end, row by row, so the k-th of a row is one addition away.
        flat, first = candidates.ravel().take(np.flatnonzero(eligible)), np.cumsum(counts) - counts
        sampled = no_negatives(len(rows.items), self._per_row)
        for column in range(self._per_row):
            # Rows with at least `column + 1` candidates; `%` starts over after the last one.
            served = np.flatnonzero(counts > column)
            sampled[served, column] = flat[first[served] + (start[served] + column) % counts[served]]
        return sampled
