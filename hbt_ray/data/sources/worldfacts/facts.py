"""Facts: what CLDR says about countries, currencies, languages, scripts and cities, in codes, without any wording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from babel import localedata
from babel.core import get_global

from hbt_ray.data.sources.worldfacts import omissions
from hbt_ray.data.sources.worldfacts.names import LANGUAGES, Entity, Kind, name

Pair = frozenset[Entity]

_CONTINENTS = {"Africa": "002", "America": "019", "Asia": "142", "Australia": "009", "Europe": "150", "Pacific": "009"}


@dataclass(frozen=True, slots=True)
class Fact:
    """A relation of one subject to one or more objects."""

    kind: str
    subject: Entity
    objects: tuple[Entity, ...]
    claims: frozenset[Pair] = frozenset()
    """Pairs from which a reader could tell this fact: facts that share one are held out together."""
    reversible: bool = False
    """No other subject has this object, so that one may ask the other way round."""

    @property
    def entities(self) -> tuple[Entity, ...]:
        return (self.subject, *self.objects)

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject.code}"

    def spoken(self, language: str) -> bool:
        """Whether CLDR names all of it in `language`."""
        return all(name(entity, language) for entity in self.entities)


@cache
def facts() -> tuple[Fact, ...]:
    """All facts that can be told in two languages or more and asked without ambiguity, in a fixed order."""
    makers = (
        _currencies,
        _official_languages,
        _cities,
        _city_zones,
        _country_zones,
        _scripts,
        _homes,
        _continents,
        _weeks,
        _codes,
    )
    found = [fact for make in makers for fact in make() if sum(map(fact.spoken, LANGUAGES)) >= 2]
    homonyms = _homonyms({entity for fact in found for entity in fact.entities})
    found = [fact for fact in found if not homonyms.intersection(fact.entities)]
    return tuple(sorted(found, key=lambda fact: (fact.kind, fact.subject.code)))


def _homonyms(entities: set[Entity]) -> set[Entity]:
    """Entities of one kind that share a name in some language, and cities called like a country."""
    # Time zones are never asked for, so that two of one name do no harm.
    named = [
        (entity, (language, entity.kind, known))
        for language in LANGUAGES
        for entity in entities
        if entity.kind != "zone" and (known := name(entity, language))
    ]
    uses = Counter(use for _, use in named)
    return {
        entity
        for entity, (language, kind, known) in named
        if uses[language, kind, known] > 1 or (kind == "city" and (language, "country", known) in uses)
    }


def _fact(kind: str, subject: Entity, *objects: Entity, reversible: bool = False) -> Fact:
    return Fact(kind, subject, objects, frozenset(frozenset((subject, it)) for it in objects), reversible)


@cache
def _countries() -> frozenset[str]:
    territories = localedata.load("en")["territories"]
    return frozenset(code for code in territories if code.isalpha() and code not in omissions.NOT_COUNTRIES)


def _country(code: str) -> Entity:
    return Entity("country", code)


def _currencies() -> Iterator[Fact]:
    used = {
        territory: [code for code, _, end, tender in spans if tender and end is None]
        for territory, spans in get_global("territory_currencies").items()
    }
    users = Counter(code for codes in used.values() for code in codes)
    for territory in sorted(_countries() & used.keys() - omissions.OUTDATED_CURRENCIES):
        # Two tenders (Panama, Lesotho) would make `the currency` a lie.
        if len(used[territory]) == 1:
            (code,) = used[territory]
            yield _fact("currency", _country(territory), Entity("currency", code), reversible=users[code] == 1)


def _official_languages() -> Iterator[Fact]:
    table: dict[str, dict[str, dict[str, Any]]] = get_global("territory_languages")
    for territory in sorted(_countries() & table.keys() - omissions.UNSURE_OFFICIAL_LANGUAGES):
        official = [tag for tag, facts in table[territory].items() if facts["official_status"] == "official"]
        codes = dict.fromkeys(tag.split("_")[0] for tag in official)  # `sr_Latn` is still Serbian
        if "nb" in codes:
            codes.pop("no", None)
        if codes:
            yield _fact("official", _country(territory), *(Entity("language", code) for code in codes))


@cache
def _zones() -> dict[str, str]:
    """Zone id → country."""
    return {zone: it for zone, it in sorted(get_global("zone_territories").items()) if it in _countries()}


def _clock(zone: str) -> str | None:
    """The metazone, which is what people call a time zone."""
    metazones = get_global("meta_zones")
    former = [old for old, new in get_global("zone_aliases").items() if new == zone]
    found = next((metazones[key] for key in (zone, *former) if key in metazones), None)
    return None if found in omissions.OUTDATED_ZONES else found


def _cities() -> Iterator[Fact]:
    for zone, territory in _zones().items():
        if zone not in omissions.NOT_CITIES:
            yield _fact("city", Entity("city", zone), _country(territory))


def _city_zones() -> Iterator[Fact]:
    for zone, territory in _zones().items():
        clock = _clock(zone)
        if clock and zone not in omissions.NOT_CITIES:
            city, time = Entity("city", zone), Entity("zone", clock)
            # Who knows the country's time knows the city's.
            yield Fact("city_zone", city, (time,), frozenset({frozenset((_country(territory), time))}))


def _country_zones() -> Iterator[Fact]:
    for territory in sorted(_countries()):
        clocks = {_clock(zone) for zone, it in _zones().items() if it == territory}
        if len(clocks) == 1 and (clock := clocks.pop()):
            yield _fact("country_zone", _country(territory), Entity("zone", clock))


@cache
def _languages() -> dict[str, tuple[str, str]]:
    """Language → the script and territory CLDR holds likeliest."""
    known = localedata.load("en")["languages"]
    likely = {tag: full.split("_") for tag, full in get_global("likely_subtags").items() if tag in known}
    return {
        tag: (parts[1], parts[2])
        for tag, parts in sorted(likely.items())
        if "_" not in tag and len(parts) == 3 and tag not in omissions.NOT_LANGUAGES
    }


def _scripts() -> Iterator[Fact]:
    for tag, (script, _) in _languages().items():
        if script not in omissions.UNNAMED_SCRIPTS and tag not in omissions.UNSURE_SCRIPTS:
            yield _fact("script", Entity("language", tag), Entity("script", script))


def _homes() -> Iterator[Fact]:
    for tag, (_, territory) in _languages().items():
        if territory in _countries() and tag not in omissions.NO_HOME:
            yield _fact("home", Entity("language", tag), _country(territory))


def _continents() -> Iterator[Fact]:
    for territory in sorted(_countries() - omissions.UNSURE_CONTINENTS):
        areas = {zone.split("/")[0] for zone, it in _zones().items() if it == territory}
        # An island in the Atlantic says nothing about where Portugal lies; only Pacific islands make a continent.
        mainland = (areas & _CONTINENTS.keys() - {"Pacific"}) or (areas if areas == {"Pacific"} else set())
        if len(mainland) == 1:
            yield _fact("continent", _country(territory), Entity("continent", _CONTINENTS[mainland.pop()]))


def _weeks() -> Iterator[Fact]:
    seen: set[str] = set()
    for locale in sorted(localedata.locale_identifiers()):
        territory = locale.rsplit("_", 1)[-1]
        if locale.count("_") == 1 and territory in _countries() and territory not in seen:
            seen.add(territory)
            # Without `merge_inherited`, only what CLDR states about the territory; the rest would be a default.
            first = localedata.load(locale, merge_inherited=False).get("week_data", {}).get("first_day")
            if first is not None:
                yield _fact("week", _country(territory), Entity("day", str(first)))


def _codes() -> Iterator[Fact]:
    currencies = {fact.objects[0].code for fact in _currencies()}
    scripts = {fact.objects[0].code for fact in _scripts()}
    tables: tuple[tuple[Kind, set[str] | frozenset[str]], ...] = (
        ("country", _countries()),
        ("currency", currencies),
        ("language", set(_languages())),
        ("script", scripts),
    )
    for kind, codes in tables:
        for code in sorted(codes):
            yield _fact(f"{kind}_code", Entity(kind, code), Entity("code", f"{kind}:{code}"), reversible=True)
