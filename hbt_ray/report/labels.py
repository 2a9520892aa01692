"""How people read it: names of languages, spans of time, sizes of memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from babel import Locale
from babel.core import UnknownLocaleError

NO_BREAK = "\u00a0"


@cache
def language_name(tag: str) -> str:
    """`de` → `German`; a tag that CLDR does not know stays as it is."""
    if known := Locale("en").languages.get(tag.replace("-", "_")):
        return str(known)
    try:
        return Locale.parse(tag, sep="-").get_display_name("en") or tag
    except (ValueError, UnknownLocaleError):
        return tag


def duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f}{NO_BREAK}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NO_BREAK}s"
    if whole < 3600:
        return f"{whole // 60}{NO_BREAK}min {whole % 60}{NO_BREAK}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,}{NO_BREAK}h {minutes % 60}{NO_BREAK}min"


def size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1023.5:
            return f"{num_bytes:.0f}{NO_BREAK}{unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f}{NO_BREAK}GiB"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def number(count: int) -> str:
    """Small counts in words, as prose does."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else f"{count:,}"
