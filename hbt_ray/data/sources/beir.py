"""BEIR folders: `corpus.jsonl`, `queries.jsonl` (either may be `.gz`) and `qrels/<split>.tsv`.

Published by beir-cellar/beir. Documents are `{"_id", "title", "text"}`, queries `{"_id", "text"}`, judgements three
tab-separated columns below the header `query-id corpus-id score`. An item is a positive judgement. Queries and corpus
are streamed once; only what the split judges is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from hbt_ray.config import Config, Language
from hbt_ray.data.sources.corpus import documents
from hbt_ray.data.sources.files import first_of, lines
from hbt_ray.data.sources.judgements import Judgement, join, judgement, positives
from hbt_ray.data.sources.records import jsonl
from hbt_ray.data.sources.rows import BadRow, Row
from hbt_ray.data.store.location import Location, child


class BeirSource(Config):
    """A BEIR folder; all of it in one language."""

    kind: Literal["beir"]
    name: str
    path: Location
    language: Language
    split: str = "train"
    """Which judgements: `qrels/<split>.tsv`."""
    licence: str = ""

    def locations(self) -> list[str]:
        return [self.path]

    def parts(self) -> list[BeirSource]:
        return [self]

    def rows(self) -> Iterator[Row | BadRow]:
        judged = yield from positives(judgements(child(self.path, f"qrels/{self.split}.tsv")))
        yield from join(
            judged,
            documents(jsonl(first_of(self.path, "queries.jsonl", "queries.jsonl.gz")), "_id"),
            documents(jsonl(first_of(self.path, "corpus.jsonl", "corpus.jsonl.gz")), "_id"),
            self.language,
        )


def judgements(location: str) -> Iterator[Judgement | BadRow]:
    for line in lines(location):
        if isinstance(line, BadRow):
            yield line
            continue
        match line.text.split("\t"):
            case ["query-id", "corpus-id", "score"]:
                continue
            case [question_id, document_id, score]:
                yield judgement(line, question_id, document_id, score)
            case _:
                yield BadRow(line.where, "not the three columns of BEIR qrels: query-id, corpus-id, score")
