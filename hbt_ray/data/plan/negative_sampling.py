"""Which of its mined negatives a row takes: a pure function of (item, epoch, language of the passage).

Of the m negatives of an item that exist in the passage's language (a monolingual batch must stay monolingual), epoch e
of a stream takes n. The first position depends on the item and the stream, and moves on by n in every epoch. So all m
are used before one is repeated, and neither the number of ranks nor a resume changes anything.
"""

from __future__ import annotations

import numpy as np

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.index.permutation import Indices, make_key, uniform
from hbt_ray.data.plan.batch_kinds import BatchRows

NO_NEGATIVE = -1
"""Stands in place of an item number."""


def no_negatives(num_rows: int, per_row: int) -> Indices:
    """[num_rows, per_row] without any negative."""
    return np.full((num_rows, per_row), NO_NEGATIVE, dtype=np.int64)


class NegativeSampler:
    """The negatives of the rows of one dataset.

    Args:
        negatives: [items, m] item numbers, -1 for none.
        per_row: negatives that a row takes, n; if an item has fewer, the rest is -1.
    """

    def __init__(self, negatives: Indices, index: LanguageIndex, per_row: int, seed: int) -> None:
        self._negatives, self._index, self._per_row = negatives, index, per_row
        self._key = make_key(seed, index.name, "negatives")

    def sample(self, rows: BatchRows, kind: str) -> Indices:
        """Item numbers [rows, n] for the rows of a batch of a kind."""
        candidates = self._negatives.take(rows.items, axis=0)
        eligible = self._index.exist_in(candidates, rows.passage_languages)
        counts = np.count_nonzero(eligible, axis=1)
        chance = uniform(make_key(self._key, kind, *rows.shared_languages), rows.items)
        start = (chance * counts).astype(np.int64) + rows.epochs * self._per_row
        # The eligible candidates lie end to end, row by row, so the k-th of a row is one addition away.
        flat, first = candidates.ravel().take(np.flatnonzero(eligible)), np.cumsum(counts) - counts
        sampled = no_negatives(len(rows.items), self._per_row)
        for column in range(self._per_row):
            served = np.flatnonzero(counts > column)
            sampled[served, column] = flat[first[served] + (start[served] + column) % counts[served]]
        return sampled
