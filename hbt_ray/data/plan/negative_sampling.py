"""Picks: which of its mined negatives a row takes, a pure function of (item, epoch, language of the passage).

Of the m negatives of an item that exist in the passage's language (a monolingual batch must stay monolingual), epoch e
of a stream takes n: from a place that the item and the stream decide, moved on by n in every epoch. So all m are seen
before one comes again, and no number of ranks and no resume changes anything.
"""

from __future__ import annotations

import numpy as np

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.index.permutation import Indices, make_key, uniform
from hbt_ray.data.plan.kinds import BatchRows

NONE = -1
"""In the place of an item number: no negative."""


def no_negatives(num_rows: int, per_row: int) -> Indices:
    """[num_rows, per_row] without any negative."""
    return np.full((num_rows, per_row), NONE, dtype=np.int64)


class NegativeSampler:
    """The picks of one dataset.

    Args:
        negatives: [items, m] item numbers, -1 for none.
        per_row: negatives that a row takes, n; where an item has fewer, the others are -1.
    """

    def __init__(self, negatives: Indices, coverage: LanguageIndex, per_row: int, seed: int) -> None:
        self._negatives, self._coverage, self._per_row = negatives, coverage, per_row
        self._key = make_key(seed, coverage.name, "negatives")

    def sample(self, rows: BatchRows, kind: str) -> Indices:
        """Item numbers [rows, n] for the rows of a batch of a kind."""
        candidates = self._negatives.take(rows.items, axis=0)
        eligible = self._coverage.have(candidates, rows.passage_languages)
        counts = np.count_nonzero(eligible, axis=1)
        chance = uniform(make_key(self._key, kind, *rows.shared_languages), rows.items)
        start = (chance * counts).astype(np.int64) + rows.epochs * self._per_row
        # Row by row the eligible ones lie end to end, so that the k-th of a row is one addition away.
        flat, first = candidates.ravel().take(np.flatnonzero(eligible)), np.cumsum(counts) - counts
        picked = no_negatives(len(rows.items), self._per_row)
        for turn in range(self._per_row):
            taken = np.flatnonzero(counts > turn)
            picked[taken, turn] = flat[first[taken] + (start[taken] + turn) % counts[taken]]
        return picked
