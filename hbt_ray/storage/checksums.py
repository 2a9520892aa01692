"""Checksums of a folder's files, in a file beside them, so that a changed bit is noticed when one of them is opened."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.errors import DamagedFile
from hbt_ray.storage.atomic import write_json
from hbt_ray.storage.json_lines import file_sha256, read_checked_json, with_checksum

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Note the SHA-256 of every file of a finished folder; to be called last."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUMS}
    write_json(folder / CHECKSUMS, with_checksum({"files": files}))


def checked_file(folder: Path, name: str) -> Path:
    """The path of a file in such a folder. It is read whole, to compare it with its checksum.

    Raises:
        FileNotFoundError: the folder has no checksums, or was finished without such a file.
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
