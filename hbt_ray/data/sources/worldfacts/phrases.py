"""Phrases: a fact in words, from the templates of `phrases/<language>.yaml`.

A template's slots stand for entities of the fact. A file may define slots of its own under `forms`, which is how a
language gets its articles, case frames and generic nouns right; names themselves are never inflected:

    in_country: {of: country, default: "in {name}", codes: {"auf den {name}": [PH, BS]}, match: {"^X": "..."}}

`codes` lists exceptions, `match` is tried next against the name, `default` is the rest. `lower` gives, by kind of
entity, the letters that CLDR capitalises in its labels and a sentence does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any, Self

import yaml
from babel.lists import format_list

from hbt_ray.data.sources.worldfacts.facts import Fact
from hbt_ray.data.sources.worldfacts.names import Entity, name
from hbt_ray.data.sources.worldfacts.split import stable_hash

# The first letter of a text, behind an opening mark or quote, if it is not the letter of a script without case.
_FIRST_LETTER = re.compile(r"^[^\w]*\w")


@dataclass(frozen=True, slots=True)
class Form:
    """How a slot dresses an entity's name."""

    of: str
    """The kind of entity; several of it are joined as a list."""
    default: str
    codes: Mapping[str, str]
    match: tuple[tuple[re.Pattern[str], str], ...]

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Self:
        codes = {str(code): frame for frame, listed in node.get("codes", {}).items() for code in listed}
        match = tuple((re.compile(pattern), frame) for pattern, frame in node.get("match", {}).items())
        return cls(node["of"], node.get("default", "{name}"), codes, match)

    def dress(self, code: str, known: str) -> str:
        frame = self.codes.get(code)
        if frame is None:
            frame = next((frame for pattern, frame in self.match if pattern.search(known)), self.default)
        return frame.replace("{name}", known)


@dataclass(frozen=True, slots=True)
class Phrasing:
    """The templates of one kind of fact; `many` replaces `passages` where a fact has several objects."""

    questions: tuple[str, ...]
    passages: tuple[str, ...]
    many: tuple[str, ...]
    inverse: str
    """Asks for the subject; empty where the kind has no such question."""

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Self:
        passages = tuple(node["passages"])
        return cls(tuple(node["questions"]), passages, tuple(node.get("many", passages)), node.get("inverse", ""))


class Phrasebook:
    """All templates of one language."""

    def __init__(self, language: str, node: Mapping[str, Any]) -> None:
        self.language = language
        self.phrasings = {kind: Phrasing.read(it) for kind, it in node["facts"].items()}
        self._forms = {slot: Form.read(it) for slot, it in node.get("forms", {}).items()}
        self._lower = {kind: re.compile(pattern) for kind, pattern in node.get("lower", {}).items()}
        self._names: dict[tuple[str, Entity], str] = {}

    def questions(self, fact: Fact) -> list[str]:
        """One text a phrasing; the k-th means the same in all languages."""
        phrasing = self.phrasings[fact.kind]
        templates = list(phrasing.questions)
        if fact.reversible and phrasing.inverse:
            templates.append(phrasing.inverse)
        return [self._fill(template, fact) for template in templates]

    def passage(self, fact: Fact) -> str:
        """One text a fact; the phrasing depends on the fact alone."""
        phrasing = self.phrasings[fact.kind]
        templates = phrasing.many if len(fact.objects) > 1 else phrasing.passages
        return self._fill(templates[stable_hash(f"passage:{fact.key}") % len(templates)], fact)

    def _fill(self, template: str, fact: Fact) -> str:
        text = template.format_map({slot: self._slot(slot, fact) for slot in _slots(template)})
        return _FIRST_LETTER.sub(lambda match: self._capital(match[0]), text)

    def _slot(self, slot: str, fact: Fact) -> str:
        form = self._forms.get(slot)
        kind = form.of if form else slot
        entities = [entity for entity in fact.entities if entity.kind == kind]
        if not entities:
            raise LookupError(f"{fact.key} has nothing to put in the slot {{{slot}}} of {self.language}.yaml")
        dressed = [self._dressed(slot, entity) for entity in entities]
        if len(dressed) == 1:
            return dressed[0]
        joined: str = format_list(dressed, locale=self.language)
        return joined

    def _dressed(self, slot: str, entity: Entity) -> str:
        if (slot, entity) not in self._names:
            known = name(entity, self.language)
            if known is None:
                raise LookupError(f"CLDR has no {self.language} name of {entity}; ask `Fact.spoken` first")
            if entity.kind in self._lower:
                known = self._lower[entity.kind].sub(lambda match: match[0].lower(), known)
            form = self._forms.get(slot)
            self._names[slot, entity] = form.dress(entity.code, known) if form else known
        return self._names[slot, entity]

    def _capital(self, start: str) -> str:
        # Turkish keeps the dot of a capital i, which `upper` drops.
        dotted = self.language == "tr" and start.endswith("i")
        return f"{start[:-1]}İ" if dotted else start[:-1] + start[-1].upper()


@cache
def _slots(template: str) -> frozenset[str]:
    return frozenset(slot for _, slot, _, _ in Formatter().parse(template) if slot)


@cache
def phrasebook(language: str) -> Phrasebook:
    """The templates of `language`, read once."""
    text = files(__package__).joinpath("phrases", f"{language}.yaml").read_text(encoding="utf-8")
    return Phrasebook(language, yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
