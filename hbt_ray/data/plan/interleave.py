"""Interleaving of weighted choices: the choice of turn n for any n, without computing the earlier turns.

An interleaving is a Huffman tree of two-way splits. A split only counts how many of its first n turns went left; that
gives the choice of a turn, and how often it was chosen before, in O(depth).

A split is a floor sequence, `floor(p·n + phase)`: in every window of turns the left side is off by less than 1. With
two choices that is the whole bound. In a Huffman tree an inner child holds at most 2/3 of its parent's weight (its
sibling is no lighter than either of its own children), so errors shrink on the way down: e < 1 + 2/3·e' gives e < 3 for
inner nodes, and every choice is **off by less than 4 turns in every window**, however long.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Protocol, Self

from hbt_ray.data.index.permutation import make_key


class Split(Protocol):
    """Divides turns between a left and a right side."""

    def count(self, turns: int) -> int:
        """Number of the first `turns` turns that went left."""
        ...


@dataclass(frozen=True, slots=True)
class BalancedSplit:
    """Goes left at the rate `left / whole`, in exact integers; `phase` in [0, whole) shifts the pattern."""

    left: int
    whole: int
    phase: int

    @classmethod
    def of_key(cls, left: int, whole: int, key: int) -> Self:
        """The split whose phase is drawn by `key`, a 64-bit number."""
        # The key as a fraction of 2^64, scaled to [0, whole).
        return cls(left, whole, phase=whole * key >> 64)

    def count(self, turns: int) -> int:
        return (turns * self.left + self.phase) // self.whole


@dataclass(frozen=True, slots=True)
class _SplitNode:
    split: Split
    left: _SplitNode | int
    right: _SplitNode | int


class Interleaving:
    """Choices 0 … n-1, taken in proportion to their weights.

    Args:
        weights: not negative, at least one positive; a choice of weight 0 is never taken.
        key: determines the phases.
    """

    def __init__(self, weights: Sequence[float | Fraction], key: int) -> None:
        # Integers: with rounding the bound would fail in long windows.
        exact = [Fraction(weight) for weight in weights]
        scale = lcm(*(weight.denominator for weight in exact))
        self._root = _huffman_tree([int(weight * scale) for weight in exact], key)

    @classmethod
    def of_split(cls, split: Split) -> Self:
        """Two choices: 0 is the left side of `split`, 1 the right one."""
        interleaving = cls.__new__(cls)
        interleaving._root = _SplitNode(split, 0, 1)
        return interleaving

    def locate(self, turn: int) -> tuple[int, int]:
        """The choice of a turn, and how many earlier turns had the same choice."""
        node = self._root
        while isinstance(node, _SplitNode):
            num_left = node.split.count(turn)
            # The turn went left if it raised the count. Then `turn` becomes its number on that side.
            if node.split.count(turn + 1) > num_left:
                node, turn = node.left, num_left
            else:
                node, turn = node.right, turn - num_left
        return node, turn


def _huffman_tree(weights: Sequence[int], key: int) -> _SplitNode | int:
    # (weight, number, node): the number makes the order of equal weights, and so the tree, unambiguous.
    heap: list[tuple[int, int, _SplitNode | int]] = [(w, i, i) for i, w in enumerate(weights) if w > 0]
    if not heap:
        raise ValueError("an interleaving needs at least one choice with a positive weight")
    heapq.heapify(heap)
    for number in range(len(weights), len(weights) + len(heap) - 1):
        small, large = heapq.heappop(heap), heapq.heappop(heap)
        whole = small[0] + large[0]
        split = BalancedSplit.of_key(small[0], whole, make_key(key, number))
        heapq.heappush(heap, (whole, number, _SplitNode(split, small[2], large[2])))
    return heap[0][2]
