"""Tables of any origin: JSON, CSV, TSV and Parquet, a row a language version of an item, or in one of the `forms`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal, NamedTuple

from hbt_ray.config import Config, Language
from hbt_ray.data.formats.records import Record, Stretch, stretches
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.data.formats.training_pairs import ColumnNames, Reader
from hbt_ray.storage.location import Location, without_options

logger = logging.getLogger(__name__)


class TableSource(Config):
    """A file of `records.FORMATS`, or a folder of them; local, or a URI such as `s3://bucket/folder`."""

    kind: Literal["table"]
    name: str
    path: Location
    language: Language | Literal[""] = ""
    """Of all rows, where no column says it."""
    licence: str = ""
    columns: ColumnNames = ColumnNames()

    def locations(self) -> list[str]:
        return [self.path]

    def parts(self) -> list[TablePart]:
        return [TablePart(stretch, self.columns, self.language, self.path) for stretch in stretches(self.path)]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for part in self.parts():
            yield from part.rows()


class TablePart(NamedTuple):
    """A file, or some row groups of one."""

    stretch: Stretch
    columns: ColumnNames
    language: str
    path: str
    """That of the source."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        reader = Reader(self.columns, self.language, without_options(self.path))
        for record in self.stretch.records(reader.columns):
            if isinstance(record, Record):
                yield from reader.rows(record)
            else:
                yield record
        for note, count in reader.notes.items():
            logger.warning("%s: %s: %d times", self.stretch.location, note, count)
