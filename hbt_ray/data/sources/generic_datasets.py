"""Training sources whose records are rows: tables in files, data sets of Hugging Face, and bitext."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hbt_ray.config import Language
from hbt_ray.data.formats.parallel_sentences import SentenceColumns, sentence_of
from hbt_ray.data.formats.records import FilePart, file_parts, read_records
from hbt_ray.data.formats.source_row import BadRow, Record, SourceRow
from hbt_ray.data.formats.training_pairs import ColumnNames, PairReader
from hbt_ray.data.sources.source import PathSource, Source
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import without_options


class TableSource(PathSource):
    """A file of `hbt_ray.data.formats.records.FORMATS`, or a folder of them.

    A record is one language version of an item, or has one of the layouts of `hbt_ray.data.formats.training_pairs`.
    """

    kind: Literal["table"]
    language: Language | Literal[""] = ""
    """Language of all rows. Empty: a column holds it."""
    columns: ColumnNames = ColumnNames()
    """Which column holds what."""

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
    """Only the first part of a source warns of columns that are not read, so that the warning comes once."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        reader = PairReader(self.columns, self.language, without_options(self.path))
        for record in self.part.records(reader.columns):
            if isinstance(record, Record):
                yield from reader.rows(record)
            else:
                yield record
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
    """Configuration of the data set, often a language. Empty: its only one."""
    split: str = "train"
    """Split of the data set."""
    revision: str = "main"
    """Commit, tag or branch on the hub. Only a commit keeps the data the same for ever."""
    language: Language | Literal[""] = ""
    """Language of all rows. Empty: a column holds it."""
    columns: ColumnNames = ColumnNames()
    """Which column holds what."""

    def locations(self) -> list[str]:
        return [self.path] if Path(self.path).exists() else []

    def rows(self) -> Iterator[SourceRow | BadRow]:
        where = f"{self.path} {self.split}"
        reader = PairReader(self.columns, self.language, where)
        for number, values in enumerate(self._stream()):
            yield from reader.rows(Record(f"{where}: row {number}", values))
        reader.log_notes(where, negatives=True)

    def _stream(self) -> Iterator[dict[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise SourceError(
                f"source {self.name!r} is of kind hub, which needs the library datasets: pip install 'hbt-ray[hub]'",
                code="MISSING_LIBRARY",
            ) from None
        # Older versions ask on the terminal whether to run code that comes with the data; it is never run.
        datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
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


class BitextSource(PathSource):
    """Parallel sentences: question and passage of a row are the same sentence.

    Use it in cross-lingual batches only: in a monolingual batch a sentence would look for itself. A record is one
    language version, or a pair with English (`columns.english`; the English version of an id becomes a row once, and
    memory holds the ids), or has a column `translation` of language → sentence.
    """

    kind: Literal["bitext"]
    columns: SentenceColumns = SentenceColumns()
    """Which column holds what."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        columns = set(self.columns.by_field().values())
        translations = PairReader(ColumnNames(item_id=self.columns.id), root=without_options(self.path))

        def select(names: Collection[str]) -> set[str]:
            return translations.columns(names) if self._has_translations(names) else columns

        ids_with_english: set[str] = set()
        for record in read_records(self.path, select):
            if isinstance(record, Record) and self._has_translations(record.values):
                yield from translations.rows(record)
                continue
            sentence = record if isinstance(record, BadRow) else sentence_of(record, self.columns)
            if isinstance(sentence, BadRow):
                yield sentence
                continue
            if self.columns.english and sentence.id not in ids_with_english:
                ids_with_english.add(sentence.id)
                yield _sentence_row(sentence.id, "en", sentence.english, sentence.where)
            yield _sentence_row(sentence.id, sentence.language, sentence.text, sentence.where)

    def _has_translations(self, names: Collection[str]) -> bool:
        return "translation" in names and self.columns.text not in names


def _sentence_row(sentence_id: str, language: str, text: str, where: str) -> SourceRow:
    return SourceRow(sentence_id, language, text, text, passage_id=sentence_id, where=where)
