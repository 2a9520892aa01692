"""The rows of worldfacts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import field_validator

from hbt_ray.config import Config, Languages
from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.data.sources.worldfacts.names import LANGUAGES
from hbt_ray.data.sources.worldfacts.phrases import phrasebook
from hbt_ray.data.sources.worldfacts.split import Split, split_facts


class WorldfactsSource(Config):
    """Questions and passages made of Unicode CLDR; needs no file and no network."""

    kind: Literal["worldfacts"] = "worldfacts"
    name: str = "worldfacts"
    licence: str = "Unicode-3.0"
    split: Split = "train"
    languages: Languages = LANGUAGES

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

    def parts(self) -> list[WorldfactsSource]:
        return [self]

    def rows(self) -> Iterator[SourceRow]:
        return rows(self.split, self.languages)


def rows(split: Split, languages: Sequence[str] = LANGUAGES) -> Iterator[SourceRow]:
    """Every item of a split in every language in which CLDR names its entities: by fact, phrasing, then language."""
    books = [phrasebook(language) for language in languages]
    for fact in split_facts()[split]:
        spoken = [book for book in books if fact.spoken(book.language)]
        passages = [book.passage(fact) for book in spoken]
        for number, questions in enumerate(zip(*(book.questions(fact) for book in spoken), strict=True), start=1):
            for book, question, passage in zip(spoken, questions, passages, strict=True):
                yield SourceRow(
                    item_id=f"{fact.key}/q{number}",
                    language=book.language,
                    question=question,
                    passage=passage,
                    passage_id=fact.key,
                    where=f"CLDR by babel: {fact.key}",
                )
