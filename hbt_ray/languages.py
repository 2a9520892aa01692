"""Language tags: BCP-47 (RFC 5646), checked at the door and written in one canonical way.

Two-letter codes must be known to CLDR, which catches `xx` and most slips of the pen. Three-letter codes of ISO 639-3
that have a two-letter code become it, as BCP-47 demands (`deu` → `de`), and so do those that CLDR calls another name of
such a language (`arb` → `ar`, `cmn` → `zh`, `prs` → `fa-AF`): data sets that spell a language differently meet. Other
three-letter codes are accepted as they are, since some seven thousand exist. Names such as `english` are well-formed
BCP-47 but registered nowhere.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

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
def _short() -> dict[str, tuple[str, str, str]]:
    """Three-letter code → language of two letters, script and region, as CLDR has them."""
    from babel.core import get_global, parse_locale

    short = {}
    for code, tag in get_global("language_aliases").items():
        language, region, script, *_ = parse_locale(tag)
        if len(code) == 3 and len(language) == 2 and language in _registered():
            short[code] = language, script or "", region or ""
    # CLDR takes Tagalog for Filipino and Twi for Akan; ISO 639-1 has codes of their own for them.
    return {**short, "tgl": ("tl", "", ""), "twi": ("tw", "", "")}


@lru_cache(maxsize=4096)
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
    language, script, region = _short().get(language, (language, "", ""))
    parts = [language, (match["script"] or script).title(), (match["region"] or region).upper()]
    return "-".join(filter(None, parts)) + match["variants"].lower()


def without_default_script(tag: str) -> str:
    """`eng_Latn` → `en`, `zho_Hans` → `zh`, but `zho_Hant` → `zh-Hant`, for sets that always name it.

    The default is CLDR's likely script of the language; of a language that CLDR does not know, the script stays.

    Raises:
        ValueError: as `normalise`.
    """
    from babel.core import get_global, parse_locale

    language, *rest = normalise(tag).split("-")
    known = get_global("likely_subtags")
    likely = known.get(language) or known.get(get_global("language_aliases").get(language))
    script = parse_locale(likely)[2] if likely else None
    default = script and rest[:1] in ([script], ["Hang"] if script == "Kore" else [])  # Kore is Hangul with Hanja.
    return "-".join([language, *(rest[1:] if default else rest)])


def english_name(tag: str) -> str:
    """`zh-Hant` → `Chinese (Traditional)`, as CLDR says; the tag itself where CLDR does not know the language."""
    from babel import Locale

    english = Locale("en")
    language, *rest = tag.split("-")
    if language not in english.languages:
        return tag
    finer = [english.scripts.get(part) or english.territories.get(part) or part for part in rest]
    return f"{english.languages[language]} ({', '.join(finer)})" if finer else str(english.languages[language])
