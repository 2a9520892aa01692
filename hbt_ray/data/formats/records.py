"""Records of a file or a folder of files in any of the formats of `FORMATS`, told apart by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hbt_ray.data.formats.files import PACKED, DataFile, data_files
from hbt_ray.data.formats.json_records import read_json_records, read_jsonl
from hbt_ray.data.formats.source_row import BadRow, Record
from hbt_ray.data.formats.tabular import ColumnSelector, open_parquet, read_parquet, read_separated
from hbt_ray.storage.location import without_options

FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv, also packed as .gz, .bz2, .xz or .zst, and .parquet"
_JSON_LINES, _SEPARATED, _PARQUET = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".parquet", ".pq")
_DATASETS_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that Hugging Face `datasets` writes beside its data."""
_PART_ROWS = 100_000
"""Rows of a Parquet file below which a part of it is not worth a task of its own."""


class FilePart(NamedTuple):
    """A file, or some row groups of a Parquet file."""

    file: DataFile
    row_groups: range | None = None

    @property
    def location(self) -> str:
        return self.file.location

    def records(self, columns: ColumnSelector) -> Iterator[Record | BadRow]:
        """The records of the part; only `columns` of Parquet files, all values of the others."""
        records = self._stored_records(columns)
        if not self.file.partition:
            return records
        partition = dict(self.file.partition)
        return (
            Record(record.where, {**partition, **record.values}) if isinstance(record, Record) else record
            for record in records
        )

    def _stored_records(self, columns: ColumnSelector) -> Iterator[Record | BadRow]:
        if self.row_groups is not None:
            return read_parquet(self.file, columns, self.row_groups)
        suffix = _suffix(self.location)
        if suffix in _SEPARATED:
            return read_separated(self.file, columns, "\t" if suffix == ".tsv" else ",")
        return read_jsonl(self.location) if suffix in _JSON_LINES else read_json_records(self.location)


def file_parts(location: str) -> list[FilePart]:
    """A file of `FORMATS`, or the files of a folder, cut into parts that can be read in parallel.

    Raises:
        SourceError: there is no such file, or a file is not Parquet in spite of its name.
    """
    parts: list[FilePart] = []
    for file in data_files(location, _is_readable, FORMATS):
        if _suffix(file.location) not in _PARQUET:
            parts.append(FilePart(file))
            continue
        with open_parquet(file.location) as parquet:
            metadata = parquet.metadata
        begin = num_rows = 0
        for group in range(metadata.num_row_groups):
            num_rows += metadata.row_group(group).num_rows
            if num_rows >= _PART_ROWS:
                parts.append(FilePart(file, range(begin, group + 1)))
                begin, num_rows = group + 1, 0
        if num_rows or not metadata.num_rows:
            parts.append(FilePart(file, range(begin, metadata.num_row_groups)))
    return parts


def read_records(location: str, columns: ColumnSelector) -> Iterator[Record | BadRow]:
    """All records of a file or of a folder of files, whose columns may differ."""
    for part in file_parts(location):
        yield from part.records(columns)


def _suffix(location: str) -> str:
    """`a/Rows.JSONL.gz` → `.jsonl`."""
    file = without_options(location).lower().rpartition("/")[2]
    for packed in PACKED:
        file = file.removesuffix(packed)
    return file[file.rfind(".") :] if "." in file else ""


def _is_readable(file: str) -> bool:
    if file in _DATASETS_METADATA:
        return False
    return file.endswith(_PARQUET) or _suffix(file) in (*_JSON_LINES, *_SEPARATED, ".json")
