"""JSONL and Parquet tables: one row a language version of an item."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.config import Config
from hbt_ray.data.rows import Row
from hbt_ray.errors import SourceError


class Columns(Config):
    """Which column holds what."""

    item_id: str = "item_id"
    language: str = "language"
    question: str = "question"
    passage: str = "passage"
    passage_id: str = ""
    """Empty: rows whose items have equal passages share them."""
    dataset: str = ""
    """Empty: all rows belong to the dataset of the source's name."""

    def named(self) -> dict[str, str]:
        return {use: column for use, column in self.model_dump().items() if column}


class TableSource(Config):
    """A `.jsonl` or `.parquet` file, or a folder of them."""

    kind: Literal["table"]
    name: str
    path: Path
    licence: str = ""
    columns: Columns = Columns()

    def rows(self) -> Iterator[Row]:
        for path in _files(self.path):
            yield from (_parquet if path.suffix == ".parquet" else _jsonl)(path, self.columns.named())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".parquet"))
    else:
        files = [path] if path.exists() else []
    if not files:
        raise SourceError(f"{path}: no such file, or a folder without .jsonl and .parquet files")
    return files


def _jsonl(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    empty = True
    with path.open(encoding="utf-8-sig", errors="strict") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                empty = False
                where = f"{path}:{number}"
                yield _row(_parse(line, where), columns, where)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path}: no UTF-8 text ({error.reason} at byte {error.start}); convert the file first"
            ) from None
    if empty:
        raise SourceError(f"{path}: the file is empty")


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{where}: no valid JSON ({error.msg}); every line must be one JSON object") from None
    if not isinstance(values, dict):
        raise SourceError(f"{where}: a JSON {type(values).__name__}; every line must be one JSON object")
    return values


def _parquet(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path}: no readable Parquet file ({error})") from None
    if missing := set(columns.values()) - set(file.schema_arrow.names):
        raise SourceError(_missing(sorted(missing), file.schema_arrow.names, str(path)))
    if file.metadata.num_rows == 0:
        raise SourceError(f"{path}: the file has no rows")
    number = 0
    for batch in file.iter_batches(columns=list(columns.values())):
        for values in batch.to_pylist():
            yield _row(values, columns, f"{path}: row {number}")
            number += 1


def _row(values: dict[str, Any], columns: dict[str, str], where: str) -> Row:
    if missing := [column for column in columns.values() if column not in values]:
        raise SourceError(_missing(missing, list(values), where))
    texts = {use: "" if values[column] is None else str(values[column]) for use, column in columns.items()}
    return Row(**texts, where=where)


def _missing(missing: list[str], found: list[str], where: str) -> str:
    return (
        f"{where}: no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, sorted(found)))}. "
        "Say which column holds what under `columns:` of the source"
    )
