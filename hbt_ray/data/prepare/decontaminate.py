"""Find training texts that occur in the evaluation data.

Two texts overlap if they are equal after normalisation (NFKC, lower case, no punctuation), or if they share a run of 13
words, the rule of GPT-3 (Brown et al. 2020, appendix C). Scripts without spaces have no words to count. For them a run
of characters of about the same length decides: 20 in Chinese or Japanese; 45 in Thai, Lao, Burmese or Khmer, whose
vowel signs are not counted. (With 20, every tenth Khmer sentence of TICO-19 would overlap with FLORES.) The runs are
hashed into one sorted array, which takes 8 bytes per word of the evaluation data.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from hbt_ray.data.index.permutation import make_key
from hbt_ray.data.prepare.hash_buckets import Hashes

RUN_WORDS = 13
_UNSPACED_SCRIPTS = {
    20: ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF)),  # Kana, Han
    45: ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Burmese, Khmer
}
"""Length of a run in characters → ranges of code points of the scripts with this length."""


class Decontaminator:
    """Finds overlaps with the evaluation texts by the hashes of the texts and of their runs.

    Args:
        texts: all texts of the evaluation data.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        # Sorted arrays and not sets: the processes of one machine share arrays without copying them.
        text_hashes: set[int] = set()
        runs: list[Hashes] = []
        for text in texts:
            if tokens := normalised_tokens(text):
                text_hashes.add(make_key(tokens))
                runs.append(run_hashes(tokens))
        self._texts = np.sort(np.fromiter(text_hashes, np.uint64, len(text_hashes)))
        self._runs = np.unique(np.concatenate(runs)) if runs else np.empty(0, np.uint64)

    def overlap(self, text: str) -> str:
        """Reason why the text overlaps with the evaluation data; empty if it does not."""
        tokens = normalised_tokens(text)
        if tokens and _any_in(np.array([make_key(tokens)], np.uint64), self._texts):
            return "equals a text of the evaluation data"
        if _any_in(run_hashes(tokens), self._runs):
            return "shares a long run of words with the evaluation data"
        return ""

    def first_overlap(self, texts: Iterable[str]) -> tuple[str, str] | None:
        """The first text that overlaps, as (reason, text)."""
        # Without repetitions: both sides of a bitext item are the same sentence.
        return next(((reason, text) for text in dict.fromkeys(texts) if (reason := self.overlap(text))), None)


def _any_in(hashes: Hashes, ordered: Hashes) -> bool:
    """Whether any of the hashes is in the sorted array."""
    if not len(hashes) or not len(ordered):
        return False
    # A hash beyond the last one gets the last position, where the comparison fails.
    positions = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return bool((ordered[positions] == hashes).any())


def normalised_tokens(text: str) -> list[str]:
    """Words in lower case without punctuation; in scripts without spaces, characters with their vowel signs."""
    return unicodedata.normalize("NFKC", text).lower().translate(_SEPARATORS).split()


def run_hashes(tokens: list[str]) -> Hashes:
    """The hash of every run of tokens, [runs]: a polynomial modulo 2^64."""
    length = _run_length(tokens)
    if len(tokens) < length:
        return np.empty(0, np.uint64)
    values = np.fromiter(map(_token_hash, tokens), np.uint64, len(tokens))
    hashes = np.zeros(len(tokens) - length + 1, np.uint64)
    # Horner's rule for all runs at once; the product overflows on purpose.
    for offset in range(length):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + values[offset : offset + len(hashes)]
    return hashes


def _run_length(tokens: list[str]) -> int:
    """The length of a run in the script of more than half of the tokens."""
    lengths = Counter(_script_run_length(ord(token[0])) for token in tokens)
    length, count = lengths.most_common(1)[0] if lengths else (RUN_WORDS, 0)
    return length if 2 * count > len(tokens) else RUN_WORDS


@lru_cache(maxsize=1_000_000)
def _token_hash(token: str) -> int:
    return make_key(token)


@lru_cache(maxsize=100_000)
def _script_run_length(code: int) -> int:
    for length, ranges in _UNSPACED_SCRIPTS.items():
        if any(first <= code <= last for first, last in ranges):
            return length
    return RUN_WORDS


class _Separators(dict[int, str]):
    """Table for `str.translate`: punctuation becomes a space, and spaces surround a character of an unspaced script."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)[0]
        # Punctuation, symbols, separators and control characters.
        if category in "PSZC":
            self[code] = " "
        else:
            # Vowel signs (marks) of unspaced scripts stay with the character before them.
            is_token = _script_run_length(code) != RUN_WORDS and category != "M"
            self[code] = f" {character}" if is_token else character
        return self[code]


_SEPARATORS = _Separators()
