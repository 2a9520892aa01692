"""mMARCO: MS MARCO's passages and queries in fourteen languages, whose ids are the same in all, so items are parallel.

Published as unicamp-dl/mmarco: `queries/<split>/<language>_queries.<split>.tsv` and
`collections/<language>_collection.tsv` are lines of `id<TAB>text`; `triples.train.ids.small.tsv` has the columns
`qid pid negative-pid`, `qrels.dev.tsv` TREC's four. Triples name a pair again for each of its negatives: it is read
once, and that is no rejection. Collections are streamed once; the pairs, and for one language at a time the texts that
they name (half a million passages, some 300 MB), are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, model_validator

from hbt_ray.config import ByLanguage, Config
from hbt_ray.data.formats.corpus import tab_separated
from hbt_ray.data.formats.files import Line, lines
from hbt_ray.data.formats.qrels import Judgement, join, judgement, positives
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.storage.location import Location


class MmarcoSource(Config):
    """mMARCO, or whatever has its layout."""

    kind: Literal["mmarco"]
    name: str
    queries: ByLanguage[Location] = Field(min_length=1)
    collections: ByLanguage[Location]
    triples: Location
    """Triples, pairs or qrels of ids."""
    licence: str = ""

    @model_validator(mode="after")
    def _same_languages(self) -> MmarcoSource:
        if odd := sorted(set(self.queries) ^ set(self.collections)):
            raise ValueError(f"queries and collections must have the same languages; only one of them has {odd[0]!r}")
        return self

    def locations(self) -> list[str]:
        return [*self.queries.values(), *self.collections.values(), self.triples]

    def parts(self) -> list[MmarcoSource]:
        return [self]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        pairs = yield from positives(_once(map(_pair, lines(self.triples))))
        for language, queries in self.queries.items():
            yield from join(pairs, tab_separated(queries), tab_separated(self.collections[language]), language)


def _pair(line: Line | BadRow) -> Judgement | BadRow:
    if isinstance(line, BadRow):
        return line
    match line.text.split():
        case [question_id, document_id] | [question_id, document_id, _]:
            return Judgement(line.where, question_id, document_id)
        case [question_id, _, document_id, relevance]:
            return judgement(line.where, question_id, document_id, relevance)
    return BadRow(line.where, "neither qid, pid and perhaps a negative pid, nor the four columns of TREC qrels")


def _once(judgements: Iterable[Judgement | BadRow]) -> Iterator[Judgement | BadRow]:
    seen: set[tuple[str, str, float]] = set()
    for one in judgements:
        if isinstance(one, Judgement):
            if (pair := (one.question_id, one.document_id, one.relevance)) in seen:
                continue
            seen.add(pair)
        yield one
