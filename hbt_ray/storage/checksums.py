"""SHA-256 checksums of files, of JSON objects, and of all files of a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hbt_ray.errors import DamagedFile
from hbt_ray.storage.atomic import write_json

CHECKSUMS = "checksums.json"
"""File in a folder that holds the checksums of the folder's other files."""
CHECKSUM_KEY = "checksum"
"""Key that `with_checksum` adds to a JSON object."""


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Hexadecimal SHA-256 of a text in UTF-8; unpaired surrogates are allowed."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The JSON object with a SHA-256 of its other keys, so that readers notice a changed bit."""
    content = {key: value for key, value in record.items() if key != CHECKSUM_KEY}
    return {**content, CHECKSUM_KEY: text_sha256(json.dumps(content, sort_keys=True, ensure_ascii=False))}


def has_valid_checksum(record: dict[str, Any]) -> bool:
    """Whether the object has a checksum that matches its other keys."""
    return bool(record.get(CHECKSUM_KEY) == with_checksum(record)[CHECKSUM_KEY])


def read_checked_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that was written by `with_checksum`. Returns it without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: the file is truncated, changed, or has no checksum.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(str(path), " ".join(str(error).split())[:200]) from None
    return parse_checked_json(content, str(path))


def parse_checked_json(content: bytes, location: str) -> dict[str, Any]:
    """Parse the content of a file as `read_checked_json` does.

    Args:
        location: the file, for errors.

    Raises:
        DamagedFile: the content is truncated, changed, or has no checksum.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(location, " ".join(str(error).split())[:200]) from None
    if not isinstance(record, dict) or not has_valid_checksum(record):
        raise DamagedFile(location, "its checksum does not match its content")
    del record[CHECKSUM_KEY]
    return record


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file of a finished folder into `checksums.json`. Call it last."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUMS}
    write_json(folder / CHECKSUMS, with_checksum({"files": files}))


def checked_file(folder: Path, name: str) -> Path:
    """The path of a file in a folder with `checksums.json`. The whole file is read and compared with its checksum.

    Raises:
        FileNotFoundError: the folder has no checksums, or `checksums.json` does not list the file.
        DamagedFile: the file or the checksums are missing in part or changed.
    """
    path = folder / name
    files = read_checked_json(folder / CHECKSUMS).get("files", {})
    if name not in files:
        raise FileNotFoundError(path)
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise DamagedFile(str(path), error.strerror or "it cannot be read") from None
    if sha256 != files[name]:
        raise DamagedFile(str(path), "its checksum does not match its content")
    return path
