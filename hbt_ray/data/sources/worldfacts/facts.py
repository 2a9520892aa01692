"""Facts that CLDR states about countries, currencies, languages, scripts and cities, and the split into held-out facts.

Facts are relations between codes; `phrases` puts them into words.

Facts are held out one by one, so that a test contains facts that training does not, about entities that training
does contain. Facts that imply one another (a country's time zone and its city's; a country's official language and that
language's home) stay together. Every entity of a held-out fact must remain in a training fact: groups of facts are
visited in the order of a hash, and a group stays in training if it has the last mention of an entity. Codes such as
`KES` occur once, so they never leave training. As a consequence, rarely mentioned entities are only trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from babel import localedata
from babel.core import get_global

from hbt_ray.data.sources.worldfacts.entities import LANGUAGES, Entity, Kind, entity_name, excluded

Claim = frozenset[Entity]
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
# Shares of the groups of facts, before those that have to stay in training.
_DEV_SHARE, _TEST_SHARE = 0.08, 0.14

_CONTINENTS = {"Africa": "002", "America": "019", "Asia": "142", "Australia": "009", "Europe": "150", "Pacific": "009"}


@dataclass(frozen=True, slots=True)
class Fact:
    """A relation of one subject to one or more objects."""

    kind: str
    subject: Entity
    objects: tuple[Entity, ...]
    claims: frozenset[Claim] = frozenset()
    """Pairs of entities that imply this fact; facts that share one are held out together."""
    reversible: bool = False
    """Whether no other subject has this object, so that a question may ask for the subject."""

    @property
    def entities(self) -> tuple[Entity, ...]:
        return (self.subject, *self.objects)

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject.code}"

    def has_names(self, language: str) -> bool:
        """Whether CLDR has names for all entities of the fact in `language`."""
        return all(entity_name(entity, language) for entity in self.entities)


@cache
def facts() -> tuple[Fact, ...]:
    """All facts that have names in two languages or more and an unambiguous answer, in a fixed order."""
    relations = (
        _currencies, _official_languages, _cities, _city_zones, _country_zones, _scripts, _homes, _continents, _weeks,
        _codes,
    )  # fmt: skip
    all_facts = [fact for relation in relations for fact in relation() if sum(map(fact.has_names, LANGUAGES)) >= 2]
    homonyms = _homonyms({entity for fact in all_facts for entity in fact.entities})
    all_facts = [fact for fact in all_facts if not homonyms.intersection(fact.entities)]
    # A fixed order, whatever the order of CLDR's tables.
    return tuple(sorted(all_facts, key=lambda fact: (fact.kind, fact.subject.code)))


def _homonyms(entities: set[Entity]) -> set[Entity]:
    """Entities that share their name with another of their kind in some language, and cities named like a country."""
    # No question asks for a time zone, so two zones of one name do no harm.
    named = [
        (entity, (language, entity.kind, known))
        for language in LANGUAGES
        for entity in entities
        if entity.kind != "zone" and (known := entity_name(entity, language))
    ]
    uses = Counter(use for _, use in named)
    return {
        entity
        for entity, (language, kind, known) in named
        if uses[language, kind, known] > 1 or (kind == "city" and (language, "country", known) in uses)
    }


def _fact(kind: str, subject: Entity, *objects: Entity, reversible: bool = False) -> Fact:
    return Fact(kind, subject, objects, frozenset(frozenset((subject, it)) for it in objects), reversible)


def _country(code: str) -> Entity:
    return Entity("country", code)


@cache
def _countries() -> frozenset[str]:
    territories = localedata.load("en")["territories"]
    return frozenset(code for code in territories if code.isalpha() and code not in excluded("countries"))


def _currencies() -> Iterator[Fact]:
    used = {
        territory: [code for code, _, end, tender in spans if tender and end is None]
        for territory, spans in get_global("territory_currencies").items()
    }
    users = Counter(code for codes in used.values() for code in codes)
    for territory in sorted(_countries() & used.keys() - excluded("currencies")):
        # A country with two legal tenders (Panama, Lesotho) does not have one currency to ask for.
        if len(used[territory]) == 1:
            (code,) = used[territory]
            yield _fact("currency", _country(territory), Entity("currency", code), reversible=users[code] == 1)


def _official_languages() -> Iterator[Fact]:
    table: dict[str, dict[str, dict[str, Any]]] = get_global("territory_languages")
    for territory in sorted(_countries() & table.keys() - excluded("official_languages")):
        official = [tag for tag, facts in table[territory].items() if facts["official_status"] == "official"]
        codes = dict.fromkeys(tag.split("_")[0] for tag in official)  # `sr_Latn` is still Serbian
        # CLDR lists Bokmål and Norwegian, which would be two answers for one language.
        if "nb" in codes:
            codes.pop("no", None)
        if codes:
            yield _fact("official", _country(territory), *(Entity("language", code) for code in codes))


@cache
def _zones() -> dict[str, str]:
    """Zone id → country."""
    return {zone: it for zone, it in sorted(get_global("zone_territories").items()) if it in _countries()}


def _clock(zone: str) -> str | None:
    """The metazone of a zone, which is a time zone in everyday language; None if there is none."""
    metazones = get_global("meta_zones")
    former = [old for old, new in get_global("zone_aliases").items() if new == zone]
    metazone = next((metazones[key] for key in (zone, *former) if key in metazones), None)
    return None if metazone in excluded("zones") else metazone


def _cities() -> Iterator[Fact]:
    for zone, territory in _zones().items():
        if zone not in excluded("cities"):
            yield _fact("city", Entity("city", zone), _country(territory))


def _city_zones() -> Iterator[Fact]:
    for zone, territory in _zones().items():
        clock = _clock(zone)
        if clock and zone not in excluded("cities"):
            city, time = Entity("city", zone), Entity("zone", clock)
            # The time zone of the country implies that of the city.
            yield Fact("city_zone", city, (time,), frozenset({frozenset((_country(territory), time))}))


def _country_zones() -> Iterator[Fact]:
    for territory in sorted(_countries()):
        clocks = {_clock(zone) for zone, it in _zones().items() if it == territory}
        # Only countries with a single time zone have an answer; None stands for an excluded or unknown one.
        if len(clocks) == 1 and (clock := clocks.pop()):
            yield _fact("country_zone", _country(territory), Entity("zone", clock))


@cache
def _languages() -> dict[str, tuple[str, str]]:
    """Language → the script and the territory that CLDR calls most likely."""
    known = localedata.load("en")["languages"]
    likely = {tag: full.split("_") for tag, full in get_global("likely_subtags").items() if tag in known}
    return {
        tag: (parts[1], parts[2])
        for tag, parts in sorted(likely.items())
        if "_" not in tag and len(parts) == 3 and tag not in excluded("languages")
    }


def _scripts() -> Iterator[Fact]:
    for tag, (script, _) in _languages().items():
        if script not in excluded("scripts") and tag not in excluded("scripts_of_languages"):
            yield _fact("script", Entity("language", tag), Entity("script", script))


def _homes() -> Iterator[Fact]:
    for tag, (_, territory) in _languages().items():
        if territory in _countries() and tag not in excluded("homes"):
            yield _fact("home", Entity("language", tag), _country(territory))


def _continents() -> Iterator[Fact]:
    for territory in sorted(_countries() - excluded("continents")):
        # The first part of a zone id names a continent or an ocean: `Africa/Nairobi`.
        areas = {zone.split("/")[0] for zone, it in _zones().items() if it == territory}
        # Zones of Atlantic islands say nothing about Portugal's continent; only the Pacific counts as one itself.
        mainland = (areas & _CONTINENTS.keys() - {"Pacific"}) or (areas if areas == {"Pacific"} else set())
        if len(mainland) == 1:
            yield _fact("continent", _country(territory), Entity("continent", _CONTINENTS[mainland.pop()]))


def _weeks() -> Iterator[Fact]:
    seen: set[str] = set()
    for locale in sorted(localedata.locale_identifiers()):
        territory = locale.rsplit("_", 1)[-1]
        if locale.count("_") == 1 and territory in _countries() and territory not in seen:
            seen.add(territory)
            # Without `merge_inherited`, this is only what CLDR states about the territory, not a default.
            first = localedata.load(locale, merge_inherited=False).get("week_data", {}).get("first_day")
            if first is not None:
                yield _fact("week", _country(territory), Entity("day", str(first)))


def _codes() -> Iterator[Fact]:
    codes: dict[Kind, Iterable[str]] = {
        "country": _countries(),
        "currency": {fact.objects[0].code for fact in _currencies()},
        "language": _languages(),
        "script": {fact.objects[0].code for fact in _scripts()},
    }
    for kind in codes:
        for code in sorted(codes[kind]):
            yield _fact(f"{kind}_code", Entity(kind, code), Entity("code", f"{kind}:{code}"), reversible=True)


# --- Splits -----------------------------------------------------------------------------------------------------------


def stable_hash(text: str) -> int:
    """A hash of 64 bits that, unlike `hash`, is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@cache
def split_facts() -> dict[Split, tuple[Fact, ...]]:
    """The facts of each split, in the order of `facts`."""
    split_of: dict[str, Split] = {}
    mentions_left = Counter(_mentions(facts()))
    for group in sorted(groups_of(facts()), key=lambda group: stable_hash(group[0].key)):
        mentions = Counter(_mentions(group))
        draw = stable_hash(f"split:{group[0].key}") / 2**64
        # Hash and draw depend on the group alone, so a new fact leaves the other draws unchanged.
        split: Split = "dev" if draw < _DEV_SHARE else "test" if draw < _DEV_SHARE + _TEST_SHARE else "train"
        if any(mentions_left[mention] <= count for mention, count in mentions.items()):
            split = "train"
        if split != "train":
            # Mentions that remain in training.
            mentions_left -= mentions
        split_of |= {fact.key: split for fact in group}
    return {split: tuple(fact for fact in facts() if split_of[fact.key] == split) for split in SPLITS}


def _mentions(some_facts: Iterable[Fact]) -> Iterator[tuple[str, Entity]]:
    """(language, entity) of each fact, because not every fact has names in all languages."""
    for fact in some_facts:
        for language in LANGUAGES:
            if fact.has_names(language):
                yield from ((language, entity) for entity in fact.entities)


def groups_of(some_facts: Iterable[Fact]) -> list[tuple[Fact, ...]]:
    """Facts connected by shared claims (union-find); each group in the given order."""
    parent: dict[Claim | str, Claim | str] = {}

    def root(node: Claim | str) -> Claim | str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    some_facts = list(some_facts)
    for fact in some_facts:
        for claim in fact.claims:
            # Facts and their claims are nodes; a shared claim joins two facts.
            parent[root(claim)] = root(fact.key)
    groups: dict[Claim | str, list[Fact]] = {}
    for fact in some_facts:
        groups.setdefault(root(fact.key), []).append(fact)
    return [tuple(group) for group in groups.values()]
