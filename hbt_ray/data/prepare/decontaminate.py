"""Overlap: does a training text occur in the evaluation data?

Two texts overlap if they are equal after normalisation (NFKC, lower case, no punctuation), or if they share a run of 13
words, the rule of GPT-3 (Brown et al. 2020, appendix C). Scripts that write no spaces have no words to count: there a
run of characters decides that is about as long, 20 of Chinese or Japanese, 45 of Thai, Lao, Burmese or Khmer, whose
vowel signs are not counted. (With 20, every tenth Khmer sentence of TICO-19 would pass for one of FLORES.) Runs are
hashed into one sorted array: 8 bytes a word of the evaluation data.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.permutation import make_key

WORDS = 13
Hashes = NDArray[np.uint64]
_UNSPACED = {
    20: ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF)),  # Kana, Han
    45: ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Burmese, Khmer
}
"""Characters of a run → the scripts that it is for."""


class Decontaminator:
    """The texts of the evaluation data."""

    def __init__(self, texts: Iterable[str]) -> None:
        # Two sorted arrays and no sets: processes on one machine share them without a copy.
        whole: set[int] = set()
        runs: list[Hashes] = []
        for text in texts:
            if tokens := normalised_tokens(text):
                whole.add(make_key(tokens))
                runs.append(run_hashes(tokens))
        self._whole = np.sort(np.fromiter(whole, np.uint64, len(whole)))
        self._runs = np.unique(np.concatenate(runs)) if runs else np.empty(0, np.uint64)

    def found_in(self, text: str) -> str:
        """Why the text overlaps; empty where it does not."""
        tokens = normalised_tokens(text)
        if tokens and _any_in(np.array([make_key(tokens)], np.uint64), self._whole):
            return "equals a text of the evaluation data"
        if _any_in(run_hashes(tokens), self._runs):
            return "shares a long run of words with the evaluation data"
        return ""

    def found_in_any(self, texts: Iterable[str]) -> tuple[str, str] | None:
        """Why the first text that overlaps does, and that text."""
        # Of bitext both sides are one sentence: looked for once.
        return next(((reason, text) for text in dict.fromkeys(texts) if (reason := self.found_in(text))), None)


def _any_in(hashes: Hashes, among: Hashes) -> bool:
    """Whether any of the hashes is among the sorted ones."""
    if not len(hashes) or not len(among):
        return False
    places = np.minimum(np.searchsorted(among, hashes), len(among) - 1)
    return bool((among[places] == hashes).any())


def normalised_tokens(text: str) -> list[str]:
    """Words in lower case without punctuation; in unspaced scripts, characters with their vowel signs."""
    return unicodedata.normalize("NFKC", text).lower().translate(_SEPARATORS).split()


def run_hashes(tokens: list[str]) -> Hashes:
    """One hash for every run: a polynomial over 2^64."""
    length = _run_length(tokens)
    if len(tokens) < length:
        return np.empty(0, np.uint64)
    values = np.fromiter(map(_token_hash, tokens), np.uint64, len(tokens))
    hashes = np.zeros(len(tokens) - length + 1, np.uint64)
    for place in range(length):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + values[place : place + len(hashes)]
    return hashes


def _run_length(tokens: list[str]) -> int:
    """By the script of most tokens."""
    lengths = Counter(_length_in(ord(token[0])) for token in tokens)
    length, count = lengths.most_common(1)[0] if lengths else (WORDS, 0)
    return length if 2 * count > len(tokens) else WORDS


@lru_cache(maxsize=1_000_000)
def _token_hash(token: str) -> int:
    return make_key(token)


@lru_cache(maxsize=100_000)
def _length_in(code: int) -> int:
    for length, scripts in _UNSPACED.items():
        if any(first <= code <= last for first, last in scripts):
            return length
    return WORDS


class _Separators(dict[int, str]):
    """For `str.translate`: punctuation becomes a space, an unspaced character stands alone."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character)[0] in "PSZC":
            self[code] = " "
        else:
            # Vowel signs of these scripts stay with the character before them.
            alone = _length_in(code) != WORDS and unicodedata.category(character)[0] != "M"
            self[code] = f" {character}" if alone else character
        return self[code]


_SEPARATORS = _Separators()
