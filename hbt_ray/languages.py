"""Language tags: BCP-47 (RFC 5646), checked at the door and written in one canonical way.

Two-letter codes must be known to CLDR, which catches `xx` and most slips of the pen; three-letter codes are accepted
as they are, since some seven thousand exist. Names such as `english` are well-formed BCP-47 but registered nowhere.
"""

from __future__ import annotations

import re
from functools import cache

_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})"
    r"(?:-(?P<script>[a-z]{4}))?"
    r"(?:-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)",
    re.IGNORECASE,
)


@cache
def _registered() -> frozenset[str]:
    from babel import Locale

    return frozenset(Locale("en").languages)


@cache
def normalise(tag: str) -> str:
    """`ZH_hant` → `zh-Hant`: the canonical spelling of a BCP-47 tag.

    Raises:
        ValueError: the tag is malformed or its two-letter language is unknown; the text says which.
    """
    match = _TAG.fullmatch(tag.strip().replace("_", "-"))
    if not match:
        raise ValueError(f"{tag!r} is no BCP-47 language tag; write for example 'de', 'pt-BR' or 'zh-Hant'")
    language = match["language"].lower()
    if len(language) == 2 and language not in _registered():
        raise ValueError(
            f"{tag!r} starts with {language!r}, which is no registered language; see the codes of ISO 639-1"
        )
    parts = [language]
    if match["script"]:
        parts.append(match["script"].title())
    if match["region"]:
        parts.append(match["region"].upper())
    return "-".join(parts) + match["variants"].lower()
