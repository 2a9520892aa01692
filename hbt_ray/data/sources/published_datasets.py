"""Training sources in the formats of published data sets: SQuAD, BEIR, MIRACL and Mr. TyDi, mMARCO.

The formats are read by `hbt_ray.data.formats`; a source says which files to read and which rows they become.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, model_validator

from hbt_ray.config import ByLanguage, Config, Language
from hbt_ray.data.formats.beir_miracl import read_beir, read_miracl_corpus
from hbt_ray.data.formats.judged_collection import (
    JudgedCollection,
    read_tsv_entries,
    relevant_judgements,
    relevant_rows,
)
from hbt_ray.data.formats.qrels import Threshold, read_judgements, read_mmarco_pairs
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.data.formats.squad import SquadParagraph, SquadQuestion, read_squad
from hbt_ray.data.sources.source import PathSource, Source
from hbt_ray.storage.location import Location


class SquadSource(Source):
    """SQuAD-format JSON files that share their question ids.

    An item is a question id, so files with equal ids are translations of one another. The passage id is the paragraph's
    place in the file, which translations share; sentences of a paragraph share it too, because translations cut it
    differently. Questions without an answer (SQuAD 2.0) are rejected, because their passage is not a positive.
    """

    kind: Literal["squad"]
    files: ByLanguage[Location]
    """Language → file."""
    passage: Literal["paragraph", "sentence"] = "paragraph"
    """`sentence`: the span of `sentence_breaks` in which the first answer starts, or the paragraph if it has none."""

    def locations(self) -> list[str]:
        return list(self.files.values())

    def parts(self) -> Sequence[SquadSource]:
        return [self.model_copy(update={"files": {language: path}}) for language, path in self.files.items()]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for language, path in self.files.items():
            for paragraph in read_squad(path):
                if isinstance(paragraph, BadRow):
                    yield paragraph
                    continue
                for question in paragraph.questions:
                    yield question if isinstance(question, BadRow) else self._row(paragraph, question, language)

    def _row(self, paragraph: SquadParagraph, question: SquadQuestion, language: str) -> SourceRow | BadRow:
        passage = paragraph.context
        if self.passage == "sentence" and paragraph.sentences is not None:
            span = paragraph.answer_sentence(question)
            if isinstance(span, BadRow):
                return span
            passage = passage[slice(*span)]
        return SourceRow(
            question.id, language, question.text, passage, question.answer, paragraph.key, where=question.where
        )


class BeirSource(PathSource):
    """A BEIR folder, all of it in one language. An item is a judgement of relevance 1 or more."""

    kind: Literal["beir"]
    path: Location
    """Folder with `corpus.jsonl`, `queries.jsonl` and `qrels/`."""
    language: Language
    """Language of all queries and documents."""
    split: str = "train"
    """Judgements to read: `qrels/<split>.tsv`."""
    threshold: Threshold = None
    """Relevance from which a document is right, if relevance is a fraction. Default: relevance is a grade, and
    documents are right from 1 on."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        yield from relevant_rows(read_beir(self.path, self.split, self.language), self.threshold)


class MiraclFiles(Config):
    """The files of one language."""

    topics: Location
    """Queries: lines of `qid<TAB>query`."""
    qrels: Location
    """Judgements."""
    corpus: Location
    """A file, or a folder of `.jsonl` files, plain or packed."""


class MiraclSource(Source):
    """MIRACL, Mr. TyDi, or any data with their layout.

    The languages are not parallel, so an item is `<language>/<qid>/<docid>` and exists in one language.
    """

    kind: Literal["miracl"]
    threshold: Threshold = None
    """Relevance from which a passage is right, if relevance is a fraction. Default: relevance is a grade, and passages
    are right from 1 on."""
    languages: ByLanguage[MiraclFiles] = Field(min_length=1)
    """Language → its files."""

    def locations(self) -> list[str]:
        return [path for files in self.languages.values() for path in (files.topics, files.qrels, files.corpus)]

    def parts(self) -> Sequence[MiraclSource]:
        return [self.model_copy(update={"languages": {name: files}}) for name, files in self.languages.items()]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for language, files in self.languages.items():
            collection = JudgedCollection(
                language,
                documents=read_miracl_corpus(files.corpus),
                queries=read_tsv_entries(files.topics),
                judgements=read_judgements(files.qrels),
                prefix=f"{language}/",
            )
            yield from relevant_rows(collection, self.threshold)


class MmarcoSource(Source):
    """mMARCO: passages and queries of MS MARCO in fourteen languages, or any data with its layout.

    Ids are the same in all languages, so items are parallel. Published as unicamp-dl/mmarco:
    `queries/<split>/<language>_queries.<split>.tsv` and `collections/<language>_collection.tsv` are lines of
    `id<TAB>text`, `triples.train.ids.small.tsv` has the columns `qid pid negative-pid`, and `qrels.dev.tsv` TREC's
    four. Memory holds the pairs, and for one language at a time the texts that they name (about 300 MB for half a
    million passages).
    """

    kind: Literal["mmarco"]
    queries: ByLanguage[Location] = Field(min_length=1)
    """Language → file of queries."""
    collections: ByLanguage[Location]
    """Language → file of passages; the same languages as `queries`."""
    triples: Location
    """Triples, pairs or qrels of ids."""

    @model_validator(mode="after")
    def _same_languages(self) -> MmarcoSource:
        if odd := sorted(set(self.queries) ^ set(self.collections)):
            raise ValueError(f"queries and collections must have the same languages; only one of them has {odd[0]!r}")
        return self

    def locations(self) -> list[str]:
        return [*self.queries.values(), *self.collections.values(), self.triples]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        pairs = yield from relevant_judgements(read_mmarco_pairs(self.triples))
        for language, queries in self.queries.items():
            documents = read_tsv_entries(self.collections[language])
            yield from relevant_rows(JudgedCollection(language, documents, read_tsv_entries(queries), pairs))
