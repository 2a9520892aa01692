"""Entities, their names in each language according to CLDR, and the entities that worldfacts leaves out.

A name is read from CLDR's file of the language itself, never a code or a fallback.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from babel import localedata
from babel.core import get_global

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
"""The languages of XQuAD-R."""

Kind = Literal["city", "code", "continent", "country", "currency", "day", "language", "script", "zone"]

# CLDR leaves a city out if its English name, the end of the zone id, is also right in the language.
_SPELT_LIKE_ENGLISH = ("de", "en", "es", "tr", "vi")
_LATIN = re.compile(r"[A-Za-z]")
# `Hindi (lateinisch)`, `Knox, Indiana`: labels of a menu, not names for running text.
_LABEL = re.compile(r"[(),（）]")
# No-break spaces become spaces; soft hyphens are dropped.
_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u00ad": None})


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """A thing with a name in CLDR, such as a country or a currency."""

    kind: Kind
    code: str
    """CLDR's key, such as `KE`, `sw` or `Africa/Nairobi`; for the kind `code`, `country:KE` with the name `KE`."""


@cache
def excluded(table: str) -> frozenset[str]:
    """The codes in a table of `exclusions.yaml`, where the reasons are given."""
    return frozenset(_exclusions()[table].split())


@cache
def _exclusions() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("exclusions.yaml").read_text(encoding="utf-8"))
    return content


@cache
def entity_name(entity: Entity, language: str) -> str | None:
    """The name of an entity in a language, in its citation form; None if CLDR has none that fits into a sentence."""
    if [language, entity.kind, entity.code] in _exclusions()["names"]:
        return None
    known = _cldr_name(entity, localedata.load(language), language)
    if not isinstance(known, str) or not known.strip():
        return None
    if entity.kind in ("city", "country", "language", "script"):
        is_borrowed = language not in _SPELT_LIKE_ENGLISH and _LATIN.search(known)
        is_label = entity.kind != "country" and _LABEL.search(known)
        if is_borrowed or is_label:
            return None
    return known.translate(_SPACES)


def _cldr_name(entity: Entity, data: Any, language: str) -> object:
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
            return _city_name(code, data, language)


def _city_name(zone: str, data: Any, language: str) -> object:
    for key in (zone, *_former_ids().get(zone, ())):
        known = data["time_zones"].get(key, {}).get("city")
        if known:
            return known
    return zone.rsplit("/", 1)[-1].replace("_", " ") if language in _SPELT_LIKE_ENGLISH else None


@cache
def _former_ids() -> dict[str, tuple[str, ...]]:
    """Zone → its former ids. CLDR keys names by a zone's first id (`Asia/Calcutta`), babel territories by the last."""
    former: dict[str, tuple[str, ...]] = {}
    for old, new in get_global("zone_aliases").items():
        former[new] = (*former.get(new, ()), old)
    return former
