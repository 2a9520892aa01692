"""Markdown of foreign text: names, prompts and settings that are shown as they are and never interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, and characters that change the direction of text."""
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+!|~$^:])")


def inline(text: str) -> str:
    """Escape text for a line, a heading or a cell of a table."""
    escaped = _PUNCTUATION.sub(r"\\\1", _visible(text))
    # `&` comes first, or the other entities would be escaped again.
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A code span. The text may hold backticks."""
    visible = _visible(text)
    fence = "`" * (_longest_run(visible) + 1)
    # Readers take off one space at each end; it keeps a backtick or a space that the text begins or ends with.
    space = " " if visible[:1] in ("`", " ") or visible[-1:] in ("`", " ") else ""
    return f"{fence}{space}{visible}{space}{fence}" if visible else "(empty)"


def block(text: str, language: str = "") -> str:
    """A fenced block of several lines."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def pipe_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; all columns but the first are aligned to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
