"""Schedules: who is served at turn n, for any n, without playing the turns before it.

A schedule over weighted choices is a Huffman tree of two-way splits. Each split only has to say how many of its first
n turns went left; from that follow the choice of a turn and how often it had been chosen before, in O(depth).

Balanced splits are floor sequences, `floor(p·n + phase)`: in every window of turns the left side is off by less than 1.
With two choices that is the whole bound. In a Huffman tree an inner child holds at most 2/3 of its parent's weight (its
sibling is no lighter than either of its own children), so errors shrink on the way down: e < 1 + 2/3·e' gives e < 3 for
inner nodes, and every choice of every schedule is **off by less than 4 turns in every window**, however long.

Random splits are independent draws (the wording of the paper). Their counts come from halving: the successes of the
first half of a block, given those of the block, are hypergeometric; so draw n still needs no draw before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Literal, Protocol, Self

import numpy as np

from hbt_ray.data.index.permutation import make_key, permute
from hbt_ray.errors import PlanError

Kind = Literal["balanced", "random"]


class Split(Protocol):
    def count(self, turns: int) -> int:
        """How many of the first `turns` turns went left."""
        ...


@dataclass(frozen=True, slots=True)
class BalancedSplit:
    """Left at rate `left / whole`, exact integers; `phase` in [0, whole) shifts the pattern."""

    left: int
    whole: int
    phase: int

    def count(self, turns: int) -> int:
        return (turns * self.left + self.phase) // self.whole


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """Every turn goes left with probability `left / whole`, independently of all others."""

    left: int
    whole: int
    key: int

    HORIZON = 2**29
    """Turns that can be told apart; numpy's hypergeometric draw ends below 10^9."""
    BLOCK = 2**12
    """Below this size a block is laid out whole."""

    def count(self, turns: int) -> int:
        if turns > self.HORIZON:
            raise PlanError(f"a random schedule ends after {self.HORIZON:,} steps; use plan.schedule=balanced")
        start, size, before = 0, self.HORIZON, 0
        total = _successes(self.key, size, Fraction(self.left, self.whole))
        while size > self.BLOCK:
            size //= 2
            in_left = _successes_of_half(self.key, start, size, total)
            if turns >= start + size:
                start, before, total = start + size, before + in_left, total - in_left
            else:
                total = in_left
        places = np.arange(turns - start)
        return before + int((permute(make_key(self.key, start), places, size) < total).sum())


@lru_cache(maxsize=4096)
def _successes(key: int, size: int, rate: Fraction) -> int:
    return int(np.random.default_rng(key).binomial(size, float(rate)))


@lru_cache(maxsize=65536)
def _successes_of_half(key: int, start: int, half: int, total: int) -> int:
    rng = np.random.default_rng([key, start, half])
    return int(rng.hypergeometric(total, 2 * half - total, half))


@dataclass(frozen=True, slots=True)
class _Node:
    split: Split
    left: _Node | int
    right: _Node | int


class Interleaving:
    """Choices 0 … n-1 served in proportion to their weights.

    Args:
        weights: not negative, at least one positive; a choice of weight 0 is never served.
        key: names the phases or the draws.
    """

    def __init__(self, weights: Sequence[float | Fraction], kind: Kind, key: int) -> None:
        exact = [Fraction(weight) for weight in weights]
        scale = lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        self._root = _huffman(whole, kind, key)

    @classmethod
    def of_split(cls, split: Split) -> Self:
        """Two choices: 0 is the left side of `split`, 1 the right one."""
        made = cls.__new__(cls)
        made._root = _Node(split, 0, 1)
        return made

    def locate(self, turn: int) -> tuple[int, int]:
        """The choice of a turn, and how many earlier turns had made the same choice."""
        node = self._root
        while isinstance(node, _Node):
            before = node.split.count(turn)
            if node.split.count(turn + 1) > before:
                node, turn = node.left, before
            else:
                node, turn = node.right, turn - before
        return node, turn


def _huffman(weights: Sequence[int], kind: Kind, key: int) -> _Node | int:
    # The second entry makes the order of equal weights, and so the whole tree, unambiguous.
    heap: list[tuple[int, int, _Node | int]] = [(w, i, i) for i, w in enumerate(weights) if w > 0]
    if not heap:
        raise ValueError("a schedule needs at least one choice with a positive weight")
    heapq.heapify(heap)
    for number in range(len(weights), len(weights) + len(heap) - 1):
        small, large = heapq.heappop(heap), heapq.heappop(heap)
        whole = small[0] + large[0]
        heapq.heappush(
            heap, (whole, number, _Node(_split(small[0], whole, kind, make_key(key, number)), small[2], large[2]))
        )
    return heap[0][2]


def _split(left: int, whole: int, kind: Kind, key: int) -> Split:
    if kind == "random":
        return RandomSplit(left, whole, key)
    return BalancedSplit(left, whole, phase=whole * key >> 64)
