"""What tests of sources share: rows, files of them, and reading a source."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.data.prepare.config import AnySource
from hbt_ray.data.sources.file_sources import Source

ROWS = [
    {"item_id": f"i{n}", "language": language, "question": f"q{n} {language}", "passage": f"p{n} {language}"}
    for n in range(4)
    for language in ("de", "en")
]


def source(**values: Any) -> Source:
    return TypeAdapter[Source](AnySource).validate_python({"name": "s", **values})


def write(path: Path, content: str | list[Any]) -> Path:
    """Text, or JSON lines; packed where the name ends in .gz."""
    text = content if isinstance(content, str) else "".join(json.dumps(value) + "\n" for value in content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(**values: Any) -> tuple[list[SourceRow], list[BadRow]]:
    rows = list(source(**values).rows())
    return [row for row in rows if isinstance(row, SourceRow)], [row for row in rows if isinstance(row, BadRow)]


def keys(rows: list[SourceRow]) -> list[tuple[str, str, str, str]]:
    return [(row.item_id, row.language, row.question, row.passage) for row in rows]


GOOD_ROW = {"item_id": "g", "language": "de", "question": "q", "passage": "p"}
EXPECTED = [(row["item_id"], row["language"], row["question"], row["passage"]) for row in ROWS]
