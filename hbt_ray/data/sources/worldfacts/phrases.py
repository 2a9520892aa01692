"""Put facts into words with the templates of `phrases/<language>.yaml`; the training source of these texts.

The slots of a template stand for entities of the fact. A file may define slots of its own under `forms`: this gives a
language its articles, case frames and generic nouns. Names themselves are never inflected:

    in_country: {of: country, default: "in {name}", codes: {"auf den {name}": [PH, BS]}, match: {"^X": "..."}}

`codes` lists exceptions, `match` is tried next against the name, and `default` is used otherwise. `lower` gives, by
kind of entity, a pattern of the letters that CLDR capitalises in its labels but a sentence does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any, Literal, Self

import yaml
from babel.lists import format_list
from pydantic import field_validator

from hbt_ray.config import Languages
from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.data.sources.file_sources import Source
from hbt_ray.data.sources.worldfacts.entities import LANGUAGES, Entity, entity_name
from hbt_ray.data.sources.worldfacts.facts import Fact, Split, split_facts, stable_hash

_FIRST_LETTER = re.compile(r"^[^\w]*\w")
"""First letter of a text, after an opening mark or quotation mark."""


@dataclass(frozen=True, slots=True)
class SlotForm:
    """The words that a slot adds to the name of an entity."""

    of: str
    """Kind of the entity; the names of several entities of this kind are joined as a list."""
    default: str
    codes: Mapping[str, str]
    match: tuple[tuple[re.Pattern[str], str], ...]

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Self:
        # A file lists the codes under each frame; the lookup needs the frame of a code.
        codes = {str(code): frame for frame, listed in node.get("codes", {}).items() for code in listed}
        match = tuple((re.compile(pattern), frame) for pattern, frame in node.get("match", {}).items())
        return cls(node["of"], node.get("default", "{name}"), codes, match)

    def apply(self, code: str, text: str) -> str:
        frame = self.codes.get(code)
        if frame is None:
            frame = next((frame for pattern, frame in self.match if pattern.search(text)), self.default)
        return frame.replace("{name}", text)


@dataclass(frozen=True, slots=True)
class Phrasing:
    """The templates of one kind of fact; `many` replaces `passages` if a fact has several objects."""

    questions: tuple[str, ...]
    passages: tuple[str, ...]
    many: tuple[str, ...]
    inverse: str
    """A question for the subject; empty if the kind has no such question."""

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Self:
        passages = tuple(node["passages"])
        return cls(tuple(node["questions"]), passages, tuple(node.get("many", passages)), node.get("inverse", ""))


class Phrasebook:
    """All templates of one language."""

    def __init__(self, language: str, node: Mapping[str, Any]) -> None:
        self.language = language
        self.phrasings = {kind: Phrasing.read(templates) for kind, templates in node["facts"].items()}
        self._forms = {slot: SlotForm.read(form) for slot, form in node.get("forms", {}).items()}
        self._lower = {kind: re.compile(pattern) for kind, pattern in node.get("lower", {}).items()}
        self._names: dict[tuple[str, Entity], str] = {}

    def questions(self, fact: Fact) -> list[str]:
        """One question for each phrasing; the k-th questions of all languages are translations."""
        phrasing = self.phrasings[fact.kind]
        templates = list(phrasing.questions)
        if fact.reversible and phrasing.inverse:
            templates.append(phrasing.inverse)
        return [self._fill(template, fact) for template in templates]

    def passage(self, fact: Fact) -> str:
        """The passage of a fact; its phrasing depends on the fact alone."""
        phrasing = self.phrasings[fact.kind]
        templates = phrasing.many if len(fact.objects) > 1 else phrasing.passages
        # The same phrasing in every language, so that the passages are translations.
        return self._fill(templates[stable_hash(f"passage:{fact.key}") % len(templates)], fact)

    def _fill(self, template: str, fact: Fact) -> str:
        text = template.format_map({slot: self._slot(slot, fact) for slot in _slots(template)})
        return _FIRST_LETTER.sub(lambda match: self._capital(match[0]), text)

    def _slot(self, slot: str, fact: Fact) -> str:
        form = self._forms.get(slot)
        kind = form.of if form else slot
        names = [self._name_in_slot(slot, entity) for entity in fact.entities if entity.kind == kind]
        if not names:
            raise LookupError(f"{fact.key} has nothing to put in the slot {{{slot}}} of {self.language}.yaml")
        # Joined as the language does it: `a, b and c`.
        return str(format_list(names, locale=self.language))

    def _name_in_slot(self, slot: str, entity: Entity) -> str:
        if (slot, entity) not in self._names:
            known = entity_name(entity, self.language)
            if known is None:
                raise LookupError(f"CLDR has no {self.language} name of {entity}; check `Fact.has_names` first")
            if entity.kind in self._lower:
                known = self._lower[entity.kind].sub(lambda match: match[0].lower(), known)
            form = self._forms.get(slot)
            self._names[slot, entity] = form.apply(entity.code, known) if form else known
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
    # The C loader is much faster, but not every build of PyYAML has it.
    return Phrasebook(language, yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


class WorldfactsSource(Source):
    """Questions and passages made from Unicode CLDR; needs no file and no network."""

    kind: Literal["worldfacts"] = "worldfacts"
    name: str = "worldfacts"
    """Name of the source and of its dataset."""
    licence: str = "Unicode-3.0"
    """Licence of CLDR, recorded in the manifest."""
    split: Split = "train"
    """Split of the facts: train, dev or test."""
    languages: Languages = LANGUAGES
    """Languages of the questions and passages; by default those of XQuAD-R."""

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [language for language in languages if language not in LANGUAGES]
        if unknown:
            raise ValueError(
                f"worldfacts has no templates for {', '.join(unknown)}; choose from {', '.join(LANGUAGES)}, "
                "or add another source for the rest"
            )
        return languages

    def locations(self) -> list[str]:
        return []

    def rows(self) -> Iterator[SourceRow]:
        """The rows, by fact, then phrasing, then language, in the languages in which CLDR has all names of the fact."""
        for fact in split_facts()[self.split]:
            books = [phrasebook(language) for language in self.languages if fact.has_names(language)]
            passages = [book.passage(fact) for book in books]
            # From a list of questions per language to a tuple of translations per phrasing.
            for number, questions in enumerate(zip(*(book.questions(fact) for book in books), strict=True), start=1):
                item, where = f"{fact.key}/q{number}", f"CLDR by babel: {fact.key}"
                for book, question, passage in zip(books, questions, passages, strict=True):
                    yield SourceRow(item, book.language, question, passage, passage_id=fact.key, where=where)
