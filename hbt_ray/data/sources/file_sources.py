"""Training sources that read files: tables, data sets of Hugging Face, bitext, and published benchmarks.

`hbt_ray.data.formats` reads the formats; a source selects the files and converts their contents to rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import Field, model_validator

from hbt_ray.config import ByLanguage, Config, Language
from hbt_ray.data.formats.judged_collection import (
    JudgedCollection,
    read_beir,
    read_miracl_corpus,
    read_tsv_entries,
    relevant_judgements,
    relevant_rows,
)
from hbt_ray.data.formats.qrels import Threshold, read_judgements, read_mmarco_pairs
from hbt_ray.data.formats.records import FilePart, file_parts, read_records
from hbt_ray.data.formats.source_row import BadRow, Record, SourceRow, parse_rows, text_values
from hbt_ray.data.formats.squad import SquadParagraph, SquadQuestion, read_squad
from hbt_ray.data.formats.training_pairs import ColumnNames, PairReader
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import Location
from hbt_ray.storage.object_store import without_options


class SourcePart(Protocol):
    """Part of a source that one task reads."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows in a fixed order, as a stream; raises `SourceError` if a file cannot be read."""
        ...


class Source(Config):
    """A data set of one origin."""

    name: str
    """Name of the source in the manifest, and of its dataset, unless a column holds the dataset's name."""
    licence: str = ""
    """Licence of the data, recorded in the manifest."""

    @abstractmethod
    def locations(self) -> list[str]:
        """Files and folders that the configuration names. A change of one of them changes the store's fingerprint."""

    @abstractmethod
    def rows(self) -> Iterator[SourceRow | BadRow]:
        """See `SourcePart.rows`."""

    def parts(self) -> Sequence[SourcePart]:
        """Parts that can be read in parallel. Their rows, one part after the other, are those of the source."""
        return [self]


class PathSource(Source):
    """A source that consists of one file or folder."""

    path: Location
    """File or folder, or a URI such as `s3://bucket/folder`."""

    def locations(self) -> list[str]:
        return [self.path]


# --- Tables -----------------------------------------------------------------------------------------------------------


class TableSource(PathSource):
    """A file of `hbt_ray.data.formats.records.FORMATS`, or a folder of them.

    A record is one language version of an item, or has one of the layouts of `hbt_ray.data.formats.training_pairs`.
    """

    kind: Literal["table"]
    language: Language | Literal[""] = ""
    """Language of all rows. Empty: a column holds the language of each row."""
    columns: ColumnNames = ColumnNames()
    """Names of the columns."""

    def parts(self) -> Sequence[TablePart]:
        parts = enumerate(file_parts(self.path))
        return [TablePart(part, self.columns, self.language, self.path, number == 0) for number, part in parts]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for part in self.parts():
            yield from part.rows()


class TablePart(NamedTuple):
    """A file of a table, or some row groups of one."""

    part: FilePart
    columns: ColumnNames
    language: str
    path: str
    """Path of the whole source."""
    is_first: bool
    """Whether this is the source's first part, which alone warns of columns that are not read."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        reader = PairReader(self.columns, self.language, without_options(self.path))
        yield from reader.rows(self.part.records(reader.columns))
        reader.log_notes(self.part.location, negatives=self.is_first)


class HubSource(Source):
    """A split of a Hugging Face data set: on the hub, or a local folder that `datasets.load_dataset` reads.

    Rows are streamed, so nothing is downloaded as a whole. The library is optional: `pip install 'hbt-ray[hub]'`.
    Records have the same layouts as those of `TableSource`.
    """

    kind: Literal["hub"]
    path: str
    """Name on the hub, such as `miracl/miracl`, or a local folder."""
    config: str = ""
    """Name of the data set's configuration, often a language. Empty: its only configuration."""
    split: str = "train"
    """Split of the data set."""
    revision: str = "main"
    """Commit, tag or branch on the hub. Only a commit pins the data."""
    language: Language | Literal[""] = ""
    """Language of all rows. Empty: a column holds the language of each row."""
    columns: ColumnNames = ColumnNames()
    """Names of the columns."""

    def locations(self) -> list[str]:
        # A data set on the hub has no files here.
        return [self.path] if Path(self.path).exists() else []

    def rows(self) -> Iterator[SourceRow | BadRow]:
        where = f"{self.path} {self.split}"
        reader = PairReader(self.columns, self.language, where)
        yield from reader.rows(Record(f"{where}: row {n}", values) for n, values in enumerate(self._stream()))
        reader.log_notes(where, negatives=True)

    def _stream(self) -> Iterator[dict[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise SourceError(
                f"source {self.name!r} is of kind hub, which needs the library datasets: pip install 'hbt-ray[hub]'",
                code="MISSING_PACKAGE",
            ) from None
        # Older versions ask on the terminal whether to run code that comes with the data; it is never run.
        datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
        # A local folder has no revisions.
        revision = None if self.locations() else self.revision
        try:
            yield from datasets.load_dataset(
                self.path, self.config or None, split=self.split, revision=revision, streaming=True
            )
        except GeneratorExit:
            raise
        except Exception as error:  # The library passes on whatever its own libraries raise.
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            raise SourceError(f"{self.path}: datasets cannot read it ({reason})", code="HUB") from None


class SentenceColumns(Config):
    """Names of the columns of parallel sentences."""

    id: str = "id"
    """Column of the id that all translations of a sentence share."""
    language: str = "language"
    """Column of the sentence's language tag."""
    text: str = "text"
    """Column of the sentence."""
    english: str = ""
    """Column of the English version of the sentence, in tables of pairs. Empty: English has rows of its own."""


class BitextSource(PathSource):
    """Parallel sentences, in any format of a table: question and passage of a row are the same sentence.

    Use it in cross-lingual batches only: in a monolingual batch question and passage would be the same text. A record
    is one language version (NTREX-128), or a pair with English (TICO-19, Tatoeba), or has a column `translation`
    of language → sentence. Of pairs, the English version of an id becomes a row once; memory holds the ids.
    """

    kind: Literal["bitext"]
    columns: SentenceColumns = SentenceColumns()
    """Names of the columns."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        columns = {field: column for field, column in self.columns.model_dump().items() if column}
        # Reads records with a column `translation`; their sentences come as question and passage.
        translations = PairReader(ColumnNames(item_id=self.columns.id), root=without_options(self.path))
        ids_with_english: set[str] = set()

        def has_translations(names: Collection[str]) -> bool:
            return "translation" in names and self.columns.text not in names

        def select(names: Collection[str]) -> set[str]:
            return translations.columns(names) if has_translations(names) else set(columns.values())

        def versions(record: Record) -> list[SourceRow | BadRow]:
            if has_translations(record.values):
                return list(translations.rows([record]))
            texts = text_values(record, columns, numbers=("id",))
            texts_by_language = [(texts["language"], texts["text"])]
            if self.columns.english and texts["id"] not in ids_with_english:
                ids_with_english.add(texts["id"])
                # A table of pairs repeats the English sentence for each language.
                texts_by_language.insert(0, ("en", texts["english"]))
            return [
                SourceRow(texts["id"], language, text, text, passage_id=texts["id"], where=record.where)
                for language, text in texts_by_language
            ]

        for rows in parse_rows(versions, read_records(self.path, select)):
            yield from [rows] if isinstance(rows, BadRow) else rows


# --- Benchmarks -------------------------------------------------------------------------------------------------------


class SquadSource(Source):
    """SQuAD-format JSON files that share their question ids.

    An item is a question id, so files with equal ids are translations of one another. The passage id is the paragraph's
    place in the file, which translations share; sentences of a paragraph share it too, because translations cut it
    differently. Questions without an answer (SQuAD 2.0) are rejected, because their passage is not a positive.
    """

    kind: Literal["squad"]
    files: ByLanguage[Location]
    """Language → SQuAD-format JSON file."""
    passage: Literal["paragraph", "sentence"] = "paragraph"
    """Text that becomes the passage. `sentence`: the span of `sentence_breaks` in which the first answer starts, or the
    whole paragraph if it has no `sentence_breaks`."""

    def locations(self) -> list[str]:
        return list(self.files.values())

    def parts(self) -> Sequence[SquadSource]:
        # One task for each language.
        return [self.model_copy(update={"files": {language: path}}) for language, path in self.files.items()]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for language, path in self.files.items():
            for paragraph in read_squad(path):
                if isinstance(paragraph, BadRow):
                    yield paragraph
                else:
                    yield from self._rows(paragraph, language)

    def _rows(self, paragraph: SquadParagraph, language: str) -> Iterator[SourceRow | BadRow]:
        def row(question: SquadQuestion) -> SourceRow:
            where, question_id, text, answer, _ = question
            passage = paragraph.context
            if self.passage == "sentence" and paragraph.sentence_breaks is not None:
                # Raises `BadRowError`, which `parse_rows` turns into a bad row.
                passage = passage[slice(*paragraph.answer_sentence(question))]
            return SourceRow(question_id, language, text, passage, answer, paragraph.key, where=where)

        return parse_rows(row, paragraph.questions)


class BeirSource(PathSource):
    """A BEIR folder, all of it in one language. An item is a judgement of relevance 1 or more."""

    kind: Literal["beir"]
    path: Location
    """Folder with `corpus.jsonl`, `queries.jsonl` and `qrels/`."""
    language: Language
    """Language of all queries and documents."""
    split: str = "train"
    """Split of the judgements: `qrels/<split>.tsv` is read."""
    threshold: Threshold = None
    """Smallest relevance of a right document, if relevance is a fraction. null: relevance is a grade, and documents are
    right from 1 on."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        yield from relevant_rows(read_beir(self.path, self.split, self.language), self.threshold)


class MiraclFiles(Config):
    """The files of one language."""

    topics: Location
    """Queries: lines of `qid<TAB>query`."""
    qrels: Location
    """Judgements of relevance (qrels) of the queries."""
    corpus: Location
    """Documents: a `.jsonl` file or a folder of them, plain or packed."""


class MiraclSource(Source):
    """MIRACL, Mr. TyDi, or any data with their layout.

    The languages are not parallel, so an item is `<language>/<qid>/<docid>` and exists in one language.
    """

    kind: Literal["miracl"]
    threshold: Threshold = None
    """Smallest relevance of a right passage, if relevance is a fraction. null: relevance is a grade, and passages are
    right from 1 on."""
    languages: ByLanguage[MiraclFiles] = Field(min_length=1)
    """Language → files of queries, judgements and documents."""

    def locations(self) -> list[str]:
        return [path for files in self.languages.values() for path in (files.topics, files.qrels, files.corpus)]

    def parts(self) -> Sequence[MiraclSource]:
        return [self.model_copy(update={"languages": {name: files}}) for name, files in self.languages.items()]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for language, files in self.languages.items():
            documents, queries = read_miracl_corpus(files.corpus), read_tsv_entries(files.topics)
            judgements = read_judgements(files.qrels)
            collection = JudgedCollection(language, documents, queries, judgements, prefix=f"{language}/")
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
    """File of triples, pairs or qrels of ids, for all languages."""

    @model_validator(mode="after")
    def _same_languages(self) -> MmarcoSource:
        if odd := sorted(set(self.queries) ^ set(self.collections)):
            raise ValueError(f"queries and collections must have the same languages; only one of them has {odd[0]!r}")
        return self

    def locations(self) -> list[str]:
        return [*self.queries.values(), *self.collections.values(), self.triples]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        # Read once for all languages, which share the ids.
        pairs = yield from relevant_judgements(read_mmarco_pairs(self.triples))
        for language, queries in self.queries.items():
            documents = read_tsv_entries(self.collections[language])
            yield from relevant_rows(JudgedCollection(language, documents, read_tsv_entries(queries), pairs))
