"""Language tags: BCP-47 (RFC 5646), validated and converted to one canonical spelling when they are read.

One language has one tag, however a data set spells it, so that a cross-lingual row never has it on both sides:

- Codes of three letters become two if the language has a two-letter code (`deu` → `de`), as BCP-47 demands, or if CLDR
  lists them as an alias of such a language (`arb` → `ar`, `cmn` → `zh`, `prs` → `fa-AF`).
- Retired codes become their successors (`iw` → `he`, `zh-min-nan` → `nan`, `zh-yue` → `yue`, `en-UK` → `en-GB`).
- The script that CLDR calls most likely is left out (`eng-Latn` → `en`, `zho-Hans` → `zh`, `zh-Hant-TW` → `zh-TW`).
  Any other script stays (`zh-Hant`, `sr-Latn`), as does the script of a language that CLDR does not list.

Two-letter codes must be listed in CLDR, which catches `xx` and most typing errors. Other three-letter codes are
accepted unchanged, since some seven thousand exist. Names such as `english` are well-formed BCP-47 but not registered.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})"
    r"(?:-(?P<extended>[a-z]{3}))?"
    r"(?:-(?P<script>[a-z]{4}))?"
    r"(?:-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)",
    re.IGNORECASE,
)
_GRANDFATHERED = {
    "art-lojban": "jbo", "cel-gaulish": "xtg", "en-gb-oed": "en-GB-oxendict", "hy-arevela": "hy", "hy-arevmda": "hyw",
    "i-ami": "ami", "i-bnn": "bnn", "i-hak": "hak", "i-klingon": "tlh", "i-lux": "lb", "i-navajo": "nv",
    "i-pwn": "pwn", "i-tao": "tao", "i-tay": "tay", "i-tsu": "tsu", "no-bok": "nb", "no-nyn": "nn",
    "zh-guoyu": "zh", "zh-hakka": "hak", "zh-min": "nan", "zh-min-nan": "nan", "zh-xiang": "hsn",
}  # fmt: skip
"""Grandfathered tags of IANA's registry → their successors, which `babel` lacks."""
_EXTENDED = {"ar", "kok", "lv", "ms", "sgn", "sw", "uz", "zh"}
"""Macrolanguages that may come before one of their languages: `zh-yue` is `yue`."""
_MACROLANGUAGES = {
    "bal", "bik", "bnc", "bua", "chm", "del", "den", "din", "doi", "gba", "gon", "grb", "hai", "hmn", "jrb", "kln",
    "kok", "kpe", "lah", "luy", "man", "mwr", "raj", "rom", "srx", "syr", "tmh", "zap", "zza",
}  # fmt: skip
"""Macrolanguages to which CLDR maps one of their languages (`mhr` → `chm`). Neither code is retired; both are kept."""
_KEPT_APART = {"ajp", "kzj", "daf"}
"""Codes that are not replaced. ISO 639-3 merged the first two into `apc` and `dtp`, but FLORES-200 and Tatoeba publish
both as separate languages. It split the third into two, which CLDR does not reflect."""


@cache
def _registered() -> frozenset[str]:
    from babel import Locale

    return frozenset(Locale("en").languages)


@cache
def _successors() -> dict[str, tuple[str, str, str]]:
    """Code → the language, script and region that replace it today, from CLDR."""
    from babel.core import get_global, parse_locale

    successors = {}
    for code, tag in get_global("language_aliases").items():
        language, region, script, *_ = parse_locale(tag)
        # An alias to a two-letter code always applies, since BCP-47 demands the shorter code.
        if len(language) == 2 or (language not in _MACROLANGUAGES and code not in _KEPT_APART):
            successors[code] = language, script or "", region or ""
    # CLDR merges Tagalog into Filipino and Twi into Akan, but ISO 639-1 has separate codes for them.
    tagalog, twi = ("tl", "", ""), ("tw", "", "")
    return {**successors, "tl": tagalog, "tgl": tagalog, "tw": twi, "twi": twi}


@lru_cache(maxsize=4096)
def normalise_tag(tag: str) -> str:
    """Convert a BCP-47 tag to its canonical spelling: `ZH_hant` → `zh-Hant`, `eng_Latn` → `en`, `iw` → `he`.

    Raises:
        ValueError: the tag is malformed, or its two-letter language is not registered.
    """
    plain = tag.strip().replace("_", "-")
    match = _TAG.fullmatch(_GRANDFATHERED.get(plain.lower(), plain))
    if not match:
        raise ValueError(f"{_shown(tag)} is no BCP-47 language tag; write for example 'de', 'pt-BR' or 'zh-Hant'")
    # A successor may bring a script or a region: `prs` is `fa-AF`. Those of the tag itself take precedence.
    language, script, region = _successor(match["language"].lower())
    if extended := match["extended"]:
        # Only these may be followed by one of their languages; elsewhere three letters are a mistake.
        if language not in _EXTENDED:
            raise ValueError(f"{_shown(tag)} is no BCP-47 language tag: {extended!r} is no script and no region")
        language, script, region = _successor(extended.lower())
    if len(language) == 2 and language not in _registered():
        raise ValueError(
            f"{_shown(tag)} starts with {language!r}, which is no registered language; see the codes of ISO 639-1"
        )
    script = (match["script"] or script).title()
    region = _region((match["region"] or region).upper(), language)
    likely = likely_script(language, region)
    if script == likely or (likely == "Kore" and script == "Hang"):  # Kore is Hangul with Hanja.
        script = ""
    return "-".join(filter(None, [language, script, region])) + _variants(match["variants"].lower())


def _shown(tag: str) -> str:
    return repr(tag if len(tag) <= 40 else tag[:40] + "…")


def _successor(code: str) -> tuple[str, str, str]:
    return _successors().get(code, (code, "", ""))


def _region(code: str, language: str) -> str:
    """Current code of a retired region (`UK`, `DD`) or number (`840`). Of several, the language's most likely one."""
    from babel.core import get_global, parse_locale

    today = get_global("territory_aliases").get(code, [code])
    likely = get_global("likely_subtags").get(language)
    home = parse_locale(likely)[1] if likely else None
    return str(home if home in today else today[0])


def _variants(text: str) -> str:
    from babel.core import get_global

    aliases = get_global("variant_aliases")
    return "".join(f"-{aliases.get(variant, variant)}" for variant in text.split("-")[1:])


def likely_script(language: str, region: str = "") -> str:
    """The most likely script by CLDR (`zh` → `Hans`; `zh`, `TW` → `Hant`); empty if CLDR does not list it."""
    from babel.core import get_global, parse_locale

    known = get_global("likely_subtags")
    # CLDR lists some languages of three letters under their macrolanguage only.
    today = get_global("language_aliases").get(language, language).split("_")[0]
    for key in (f"{language}_{region}", language, today):
        if key in known:
            return str(parse_locale(known[key])[2])
    return ""


def english_name(tag: str) -> str:
    """CLDR's English name of a tag: `zh-Hant` → `Chinese (Traditional)`; the tag itself if CLDR does not list it."""
    from babel import Locale

    english = Locale("en")
    language, *rest = tag.split("-")
    if language not in english.languages:
        return tag
    # Script, region, or the subtag itself.
    finer = [english.scripts.get(part) or english.territories.get(part) or part for part in rest]
    return f"{english.languages[language]} ({', '.join(finer)})" if finer else str(english.languages[language])
