"""Overlap: does a training text occur in the evaluation data?

Two texts overlap if they are equal after normalisation (NFKC, lower case, no punctuation), or if they share a run of 13
words, the rule of GPT-3 (Brown et al. 2020, appendix C). Scripts that write no spaces have no words to count: there a
run of 20 characters decides. Runs are hashed into one sorted array: 8 bytes a word of the evaluation data.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.keyed import make_key

WORDS, CHARACTERS = 13, 20
Hashes = NDArray[np.uint64]
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3FFFF),
)
"""Thai and Lao, Burmese, Khmer, Kana, Han."""


class Overlap:
    """The texts of the evaluation data."""

    def __init__(self, texts: Iterable[str]) -> None:
        whole: set[str] = set()
        runs: list[Hashes] = []
        for text in texts:
            tokens = tokenised(text)
            whole.add(" ".join(tokens))
            runs.append(run_hashes(tokens))
        self._whole = whole - {""}
        self._runs = np.unique(np.concatenate(runs)) if runs else np.empty(0, np.uint64)

    def found_in(self, text: str) -> str:
        """Why the text overlaps; empty where it does not."""
        tokens = tokenised(text)
        if " ".join(tokens) in self._whole:
            return "equals a text of the evaluation data"
        hashes = run_hashes(tokens)
        if not len(hashes) or not len(self._runs):
            return ""
        places = np.minimum(np.searchsorted(self._runs, hashes), len(self._runs) - 1)
        return "shares a long run of words with the evaluation data" if (self._runs[places] == hashes).any() else ""


def tokenised(text: str) -> list[str]:
    """Words in lower case without punctuation; in unspaced scripts, characters."""
    return unicodedata.normalize("NFKC", text).lower().translate(_SEPARATORS).split()


def run_hashes(tokens: list[str]) -> Hashes:
    """One hash for every run of 13 words, or of 20 characters where most tokens are such: a polynomial over 2^64."""
    alone = sum(len(token) == 1 and _is_unspaced(ord(token)) for token in tokens)
    length = CHARACTERS if 2 * alone > len(tokens) else WORDS
    if len(tokens) < length:
        return np.empty(0, np.uint64)
    values = np.fromiter(map(_token_hash, tokens), np.uint64, len(tokens))
    hashes = np.zeros(len(tokens) - length + 1, np.uint64)
    for place in range(length):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + values[place : place + len(hashes)]
    return hashes


@lru_cache(maxsize=1_000_000)
def _token_hash(token: str) -> int:
    return make_key(token)


def _is_unspaced(code: int) -> bool:
    return any(first <= code <= last for first, last in _UNSPACED)


class _Separators(dict[int, str]):
    """For `str.translate`: punctuation becomes a space, an unspaced character stands alone."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character)[0] in "PSZC":
            self[code] = " "
        else:
            # Vowel signs of these scripts stay with the character before them.
            alone = _is_unspaced(code) and unicodedata.category(character)[0] != "M"
            self[code] = f" {character}" if alone else character
        return self[code]


_SEPARATORS = _Separators()
