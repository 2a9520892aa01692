"""SHA-256 checksums of files, texts and JSON objects, which reveal changed bits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hbt_ray.errors import DamagedFile

_CHECKSUM_KEY = "checksum"


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Hexadecimal SHA-256 of a text in UTF-8; unpaired surrogates are allowed."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON object with a SHA-256 of its other keys, by which readers detect a changed bit."""
    content = {key: value for key, value in record.items() if key != _CHECKSUM_KEY}
    # Sorted keys: the checksum does not depend on the order of the keys or the layout of the file.
    return {**content, _CHECKSUM_KEY: text_sha256(json.dumps(content, sort_keys=True, ensure_ascii=False))}


def without_checksum(record: object) -> dict[str, Any] | None:
    """The object without its checksum; None if it is not an object, or its checksum does not match."""
    if not isinstance(record, dict) or record.get(_CHECKSUM_KEY) != with_checksum(record)[_CHECKSUM_KEY]:
        return None
    return {key: value for key, value in record.items() if key != _CHECKSUM_KEY}


def parse_checked_json(content: bytes, location: str) -> dict[str, Any]:
    """Parse the content of a file as `read_checked_json` does; `location` names the file in errors.

    Raises:
        DamagedFile: the content is truncated, changed, or has no checksum.
    """
    try:
        record = without_checksum(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(location, _one_line(error)) from None
    if record is None:
        raise DamagedFile(location, "its checksum does not match its content")
    return record


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
