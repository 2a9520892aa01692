"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, each plain or packed (`PACKED`).

Published by beir-cellar/beir and mteb. Documents are `{"_id", "title", "text"}`, queries `{"_id", "text"}`. Judgements
are what `judgements` reads: three tab-separated columns below a header, JSON lines, or TREC's four columns. An item is
a positive judgement. Queries and corpus are streamed once; only what the split judges is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from hbt_ray.config import Config, Language
from hbt_ray.data.formats.corpus import documents
from hbt_ray.data.formats.files import PLAIN_OR_PACKED, first_of
from hbt_ray.data.formats.qrels import Threshold, graded, join, judgements, positives
from hbt_ray.data.formats.records import jsonl
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.storage.location import Location


class BeirFiles(NamedTuple):
    corpus: str
    queries: str
    judgements: str


def beir_files(folder: str, split: str) -> BeirFiles:
    """The files of a BEIR folder.

    Raises:
        SourceError: one is missing.
    """
    return BeirFiles(
        first_of(folder, *(f"corpus.jsonl{packed}" for packed in PLAIN_OR_PACKED)),
        first_of(folder, *(f"queries.jsonl{packed}" for packed in PLAIN_OR_PACKED)),
        first_of(
            folder, *(f"qrels/{split}.{form}{packed}" for form in ("tsv", "jsonl", "txt") for packed in PLAIN_OR_PACKED)
        ),
    )


class BeirSource(Config):
    """A BEIR folder; all of it in one language."""

    kind: Literal["beir"]
    name: str
    path: Location
    language: Language
    split: str = "train"
    """Which judgements: `qrels/<split>.tsv`."""
    threshold: Threshold = None
    """Relevance from which a document is right, where relevance is a fraction. Default: grades, right from 1 on."""
    licence: str = ""

    def locations(self) -> list[str]:
        return [self.path]

    def parts(self) -> list[BeirSource]:
        return [self]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        files = beir_files(self.path, self.split)
        judged = yield from positives(graded(judgements(files.judgements), self.threshold))
        yield from join(judged, documents(jsonl(files.queries)), documents(jsonl(files.corpus)), self.language)
