"""Index of the languages of a dataset's items, as ranges of item numbers.

Everything is computed from the manifest's groups: arrays of (groups × languages), never of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.manifest import DatasetInfo
from hbt_ray.data.index.permutation import Indices

LanguageCodes = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class ItemPool:
    """The items with some languages, numbered 0 … size-1 over their ranges of item numbers."""

    starts: Indices
    """First item of each range."""
    offsets: Indices
    """Pool number of the first item of each range, then the size of the pool; [ranges + 1]."""

    @property
    def size(self) -> int:
        return int(self.offsets[-1])

    def items(self, numbers: Indices) -> Indices:
        """Convert pool numbers to item numbers, [numbers] each."""
        ranges = np.searchsorted(self.offsets, numbers, side="right") - 1
        return self.starts[ranges] + (numbers - self.offsets[ranges])


class LanguageIndex:
    """The languages of the items of one dataset, restricted to the languages in use.

    Args:
        languages: all languages of the plan; language codes are positions in this list.
        exponent: a language is drawn in proportion to (its number of items) ** exponent; 0 is uniform.
    """

    def __init__(self, info: DatasetInfo, languages: Sequence[str], exponent: float) -> None:
        self.name = info.name
        self._groups = info.groups
        self._sizes = np.array([group.num_items for group in info.groups], dtype=np.int64)
        # First item of each group, [groups].
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]).astype(np.int64)
        # [groups, languages]
        self._has = np.array(
            [[language in group.languages for language in languages] for group in info.groups], dtype=bool
        )
        # A dataset without groups would give an array of one axis.
        self._has = self._has.reshape(len(info.groups), len(languages))
        # [languages, languages]: items with both languages of each pair; the diagonal counts those of each language.
        self.shared = (self._has.T * self._sizes) @ self._has
        counts = np.diag(self.shared).astype(np.float64)
        # A language without items has weight 0 under any exponent, 0 included.
        self.language_weights = np.where(counts > 0, np.maximum(counts, 1) ** exponent, 0.0)
        pairs = np.where(self.shared > 0, np.maximum(self.shared, 1).astype(np.float64) ** exponent, 0.0)
        # Question and passage of a pair have different languages.
        self.pair_weights = pairs * ~np.eye(len(languages), dtype=bool)
        self._shares = _RaggedShares(self._has, self.language_weights)

    def pool(self, *languages: int) -> ItemPool:
        """Items that exist in all the given languages."""
        return self._ranges(np.flatnonzero(self._has[:, list(languages)].all(axis=1)))

    def pool_of_min_languages(self, num_languages: int) -> ItemPool:
        """Items that exist in at least `num_languages` languages."""
        return self._ranges(np.flatnonzero(self._has.sum(axis=1) >= num_languages))

    def draw_language(self, items: Indices, chance: NDArray[np.float64]) -> LanguageCodes:
        """Draw a language of each item by weight. `chance` holds one uniform number in [0, 1) per item."""
        return self._shares.draw(self._groups_of(items), chance)

    def draw_pair(
        self, items: Indices, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> tuple[LanguageCodes, LanguageCodes]:
        """Draw two different languages of each item: one by weight, then one by weight among the others."""
        groups = self._groups_of(items)
        first_languages = self._shares.draw(groups, first)
        return first_languages, self._shares.draw_other(groups, first_languages, second)

    def draw_other(self, items: Indices, taken: LanguageCodes, chance: NDArray[np.float64]) -> LanguageCodes:
        """Draw a language of each item by weight, except the one taken; -1 if the item has no other."""
        groups = self._groups_of(items)
        single = self._has.sum(axis=1)[groups] < 2
        # The draw of an item with a single language is meaningless and replaced.
        return np.where(single, np.int16(-1), self._shares.draw_other(groups, taken, chance))

    def exist_in(self, items: Indices, codes: LanguageCodes) -> NDArray[np.bool_]:
        """Whether each item exists in the language of its row.

        Args:
            items: [rows, m], -1 for none.
            codes: language of each row, [rows].

        Returns:
            [rows, m], False for -1.
        """
        exist: NDArray[np.bool_] = items >= 0
        used = np.unique(codes)
        if self._has[:, used].all():  # Parallel data: nothing to look up.
            return exist
        groups = self._groups_of(items)  # Item -1 gets the last group, but `exist` is False there.
        exist &= self._has[:, used[0]][groups] if len(used) == 1 else self._has[groups, codes[:, None]]
        return exist

    def _groups_of(self, items: Indices) -> Indices:
        return np.searchsorted(self._starts, items, side="right") - 1

    def _ranges(self, groups: NDArray[np.intp]) -> ItemPool:
        # An empty group would add a range without items.
        groups = groups[self._sizes[groups] > 0]
        return ItemPool(self._starts[groups], np.concatenate([[0], np.cumsum(self._sizes[groups])]).astype(np.int64))


class _RaggedShares:
    """Cumulative language shares of all groups, end to end in one array: group g fills the interval [g, g+1].

    A slot is a language of a group; the slots of a group are consecutive and ascend by language code.
    """

    def __init__(self, has: NDArray[np.bool_], weights: NDArray[np.float64]) -> None:
        groups, codes = np.nonzero(has)  # [slots] each, group by group
        self._codes = codes.astype(np.int16)
        self._first = np.searchsorted(groups, np.arange(len(has) + 1))  # First slot of each group, [groups + 1].
        # A slot's share of its group, [slots]; a group without a language in use has no slots.
        share = weights[codes] / np.where(has.any(axis=1), has @ weights, 1.0)[groups]
        before = np.concatenate([[0.0], np.cumsum(share)])
        self._before = before[:-1] - before[self._first[:-1]][groups]  # Start of the slot within its group, [slots].
        self._share = share
        # Ascending over all groups, so one `searchsorted` draws for items of any groups.
        self._edges = groups + self._before
        # Slot of each language of each group, -1 for none: [groups, languages].
        self._slot = np.full(has.shape, -1, dtype=np.int64)
        self._slot[groups, codes] = np.arange(len(codes))

    def draw(self, groups: Indices, chance: NDArray[np.float64]) -> LanguageCodes:
        """Draw a language of each group by weight."""
        return self._codes[self._slots(groups, chance)]

    def draw_other(self, groups: Indices, taken: LanguageCodes, chance: NDArray[np.float64]) -> LanguageCodes:
        """Draw a language except the taken one: cut its interval out of [0, 1) and draw from the rest."""
        gap = self._slot[groups, taken]
        point = chance * (1.0 - self._share[gap])
        point = np.where(point >= self._before[gap], point + self._share[gap], point)  # Jump over the gap.
        slots = self._slots(groups, point)
        # Rounding at the edge of the gap may hit the taken language itself: take its neighbour.
        last = self._first[groups + 1] - 1
        beside = np.where(gap < last, gap + 1, gap - 1)
        return self._codes[np.where(slots == gap, beside, slots)]

    def _slots(self, groups: Indices, chance: NDArray[np.float64]) -> Indices:
        slots = np.searchsorted(self._edges, groups + chance, side="right") - 1
        # Rounding of `groups + chance` may reach the edge of the next group.
        return np.clip(slots, self._first[groups], self._first[groups + 1] - 1)
