"""What an entity is called in a language, read from CLDR's own file of that language; never a code or a fallback."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from babel import localedata
from babel.core import get_global

from hbt_ray.data.sources.worldfacts.omissions import WRONG_NAMES

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
"""Those of XQuAD-R."""

Kind = Literal["city", "code", "continent", "country", "currency", "day", "language", "script", "zone"]

# CLDR leaves a city out where its English name, the end of the zone id, is also right in the language.
_SPELT_LIKE_ENGLISH = ("de", "en", "es", "tr", "vi")
_LATIN = re.compile(r"[A-Za-z]")
# `Hindi (lateinisch)`, `Knox, Indiana`: labels of a menu, no names for running text.
_LABEL = re.compile(r"[(),（）]")
_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u00ad": None})


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """Something CLDR names."""

    kind: Kind
    code: str
    """CLDR's key, such as `KE`, `sw` or `Africa/Nairobi`; `country:KE` for the kind `code`, where the name is `KE`."""


@cache
def name(entity: Entity, language: str) -> str | None:
    """The citation form in `language`; `None` where CLDR has none that is fit for a sentence."""
    if (language, entity.kind, entity.code) in WRONG_NAMES:
        return None
    found = _raw(entity, localedata.load(language), language)
    if not isinstance(found, str) or not found.strip():
        return None
    if entity.kind in ("city", "country", "language", "script"):
        borrowed = language not in _SPELT_LIKE_ENGLISH and _LATIN.search(found)
        label = entity.kind != "country" and _LABEL.search(found)
        if borrowed or label:
            return None
    return found.translate(_SPACES)


def _raw(entity: Entity, data: Any, language: str) -> object:
    code = entity.code
    match entity.kind:
        case "code":
            return code.partition(":")[2]
        case "country" | "continent":
            return data["territories"].get(code)
        case "language" | "script":
            return data[f"{entity.kind}s"].get(code)
        case "currency":
            # English display names are titles (`Kenyan Shilling`); the counted form is what a sentence needs.
            titled = data["currency_names"].get(code)
            return data["currency_names_plural"].get(code, {}).get("one", titled) if language == "en" else titled
        case "day":
            return data["days"]["format"]["wide"].get(int(code))
        case "zone":
            long = data["meta_zones"].get(code, {}).get("long", {})
            # `generic` covers summer and winter; zones without summer time have `standard` only.
            return long.get("generic", long.get("standard"))
        case "city":
            return _city(code, data, language)


def _city(zone: str, data: Any, language: str) -> object:
    for key in (zone, *_former_ids().get(zone, ())):
        found = data["time_zones"].get(key, {}).get("city")
        if found:
            return found
    return zone.rsplit("/", 1)[-1].replace("_", " ") if language in _SPELT_LIKE_ENGLISH else None


@cache
def _former_ids() -> dict[str, tuple[str, ...]]:
    """CLDR keys its names by the first id a zone ever had (`Asia/Calcutta`), babel its territories by the last."""
    former: dict[str, tuple[str, ...]] = {}
    for old, new in get_global("zone_aliases").items():
        former[new] = (*former.get(new, ()), old)
    return former
