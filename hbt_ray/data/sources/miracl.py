"""MIRACL and Mr. TyDi: for each language topics, TREC qrels and a corpus of `docs-*.jsonl.gz`.

Published as miracl/miracl and miracl/miracl-corpus, castorini/mr-tydi and castorini/mr-tydi-corpus. Topics are lines
of `qid<TAB>query`, documents `{"docid", "title", "text"}`. The languages are not parallel (question 0 of one is not
question 0 of another), so an item is `<language>/<qid>/<docid>` and exists in one language. Each corpus is streamed
once; only its judged documents are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hbt_ray.config import ByLanguage, Config
from hbt_ray.data.formats.corpus import documents, tab_separated
from hbt_ray.data.formats.files import JSON_LINES, files_of
from hbt_ray.data.formats.qrels import Threshold, graded, join, judgements, positives
from hbt_ray.data.formats.records import Record, jsonl
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.storage.location import Location


class MiraclLanguage(Config):
    """The files of one language."""

    topics: Location
    qrels: Location
    corpus: Location
    """A file, or a folder of `.jsonl` files, plain or packed."""


class MiraclSource(Config):
    """MIRACL, or whatever has its layout."""

    kind: Literal["miracl"]
    name: str
    licence: str = ""
    threshold: Threshold = None
    """Relevance from which a passage is right, where relevance is a fraction. Default: grades, right from 1 on."""
    languages: ByLanguage[MiraclLanguage] = Field(min_length=1)

    def locations(self) -> list[str]:
        return [path for files in self.languages.values() for path in (files.topics, files.qrels, files.corpus)]

    def parts(self) -> list[MiraclSource]:
        return [self.model_copy(update={"languages": {name: files}}) for name, files in self.languages.items()]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for language, files in self.languages.items():
            judged = yield from positives(graded(judgements(files.qrels), self.threshold))
            corpus = documents(_records(files.corpus))
            yield from join(judged, tab_separated(files.topics), corpus, language, prefix=f"{language}/")


def _records(corpus: str) -> Iterator[Record | BadRow]:
    for file in files_of(corpus, lambda name: name.endswith(JSON_LINES)):
        yield from jsonl(file)
