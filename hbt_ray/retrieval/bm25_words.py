"""Words: what BM25 counts, for texts in any language.

Texts are case-folded under NFKC. Words between spaces are stemmed where Snowball knows the language. Scripts that do
not put spaces between words, and Hangul, whose words carry their particles, become overlapping pairs of characters, as
in Lucene's analyser for Chinese, Japanese and Korean; a character is a grapheme, so that vowel signs stay with their
consonant. No language is left out, so the means of a result are over the same languages as those of dense encoders.

`extra bm25`: regex, PyStemmer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from hbt_ray.errors import ConfigError

NEEDED = "`pip install 'hbt-ray[bm25]'` brings what BM25 needs"
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー"
# A mark belongs to the script of the letter before it, though some have none of their own.
_PIECES = rf"(?P<pairs>[{_UNSPACED}][{_UNSPACED}\p{{M}}]*)|(?P<word>(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+)"
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "nb": "norwegian", "ne": "nepali",
    "nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip


def words(texts: Sequence[str], language: str) -> list[list[str]]:
    """The words of each text, in order, with their repetitions.

    Raises:
        ConfigError: the extra `bm25` is not installed.
    """
    pieces, graphemes = _patterns()
    stem = _stemmer(language.split("-")[0])
    found = []
    for text in texts:
        own: list[str] = []
        for piece in pieces.finditer(unicodedata.normalize("NFKC", text).casefold()):
            if run := piece["pairs"]:
                letters = graphemes.findall(run)
                own += [left + right for left, right in pairwise(letters)] or letters
            else:
                own.append(piece["word"])
        found.append(list(filter(None, stem(own))))  # Some words are nothing but an ending.
    return found


@cache
def _patterns() -> tuple[Any, Any]:
    try:
        import regex
    except ImportError:
        raise ConfigError(f"bm25 reads words with the package regex, which is not installed; {NEEDED}") from None
    return regex.compile(_PIECES), regex.compile(r"\X")


@cache
def _stemmer(language: str) -> Callable[[list[str]], list[str]]:
    try:
        import Stemmer
    except ImportError:
        raise ConfigError(f"bm25 stems words with the package PyStemmer, which is not installed; {NEEDED}") from None
    name = _STEMMERS.get(language)
    stem: Callable[[list[str]], list[str]] = Stemmer.Stemmer(name).stemWords if name else list
    return stem
