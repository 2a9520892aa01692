"""Folders in an object store that appear complete or not at all, and their copies on a node's disk.

A folder is written under a new version, and one small file makes it visible at the end:

    model/folder.json          the version, and size and SHA-256 of each file
    model/<version>/...        the files

A reader sees the previous version until `folder.json` is replaced. Copies of a version never change, so a node keeps
them below `node_folder()`, the least recently used ones up to `MAX_COPIES_BYTES`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.errors import DamagedFile, StorageError, StoreError
from hbt_ray.storage.checksums import file_sha256, parse_checked_json, with_checksum
from hbt_ray.storage.locks import blocking_lock
from hbt_ray.storage.object_path import AnyPath, ObjectPath
from hbt_ray.storage.storage_errors import naming_storage_errors

MAX_COPIES_BYTES = 20 << 30
"""Size of all copies on a node, above which old ones are deleted."""
MANIFEST = "folder.json"
_VERSION = "[0-9a-f]{16}"
_IN_USE_SECONDS = 600.0
"""A copy that was opened within this time is not deleted: its reader may still open files."""
_READS = 4
"""Attempts to read a folder whose version is replaced meanwhile."""


def node_folder() -> Path:
    """The folder on this node's own disk for data of object stores: `hbt_ray` in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hbt_ray"


@dataclass(frozen=True, slots=True)
class FolderManifest:
    """The content of `folder.json`."""

    version: str
    files: dict[str, tuple[int, str]]
    """Relative name → size in bytes and SHA-256."""


def read_manifest(folder: ObjectPath, *, expected: bool = False) -> FolderManifest:
    """The manifest of a published folder.

    Args:
        expected: the folder was published, so a read that misses it is repeated.

    Raises:
        FileNotFoundError: there is no such folder.
        DamagedFile: the manifest was changed.
    """
    path = folder / MANIFEST
    content = parse_checked_json(path.read_bytes(expected=expected), str(path))
    return FolderManifest(content["version"], {name: (size, sha) for name, (size, sha) in content["files"].items()})


def publish_folder(source: Path, folder: ObjectPath) -> None:
    """Replace a folder by the content of a local one, which becomes this node's copy of it.

    Raises:
        StorageError: the object store does not take a file; the previous version is unchanged.
    """
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    files = {name: ((source / name).stat().st_size, file_sha256(source / name)) for name in names}
    version = secrets.token_hex(8)
    for name in names:
        (folder / version / name).upload(source / name)
    manifest = json.dumps(with_checksum({"version": version, "files": files}), indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_bytes(manifest.encode())
    copy = _copy_path(folder, version)
    with suppress(OSError):  # Without the copy, readers on this node fetch the files.
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, copy)
        _evict()
    # Earlier versions, and files of writers that died.
    with suppress(StorageError, StoreError):
        for name in folder.names():
            if re.fullmatch(_VERSION, name) and name != version:
                (folder / name).remove_tree()


def folder_file(folder: AnyPath, name: str) -> AnyPath:
    """The path of a file of a folder, which need not exist. In an object store it is that of the current version."""
    if isinstance(folder, Path):
        return folder / name
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return folder / name
    return folder / manifest.version / name if name in manifest.files else folder / name


def folder_exists(folder: AnyPath) -> bool:
    """Whether the folder exists; in an object store, whether it was published."""
    return folder.is_dir() if isinstance(folder, Path) else (folder / MANIFEST).exists()


def names_in(folder: AnyPath) -> list[str]:
    """Sorted names of what is directly in a folder; empty if it does not exist."""
    if isinstance(folder, ObjectPath):
        return folder.names()
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def local_twin(path: ObjectPath) -> Path:
    """A folder on this node for what belongs to a path of an object store and is written piece by piece."""
    return node_folder() / "work" / hashlib.sha256(str(path).encode()).hexdigest()[:16] / path.name


def local_folder(folder: AnyPath, *, expected: bool = True) -> Path:
    """The folder on this machine: itself, or a copy of the current version of a published one.

    Args:
        expected: the folder was published, so a read that misses it is repeated for some seconds.

    Raises:
        FileNotFoundError: the folder was never published.
        DamagedFile: a file is missing or was changed.
        StoreError: the object store does not answer.
    """
    if isinstance(folder, Path):
        return folder
    for _ in range(_READS):
        manifest = read_manifest(folder, expected=expected)
        copy = _copy_path(folder, manifest.version)
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with blocking_lock(copy.parent / "fetching"):  # The other processes of the node wait for one download.
                if not copy.is_dir():
                    _evict()
                    _fetch(folder / manifest.version, manifest, copy)
                os.utime(copy.parent)  # Its last use. The copy's own time stays, by which callers see that it is new.
            return copy
        except FileNotFoundError as error:
            if read_manifest(folder).version == manifest.version:
                raise DamagedFile(str(folder), f"a file of it is missing: {error}") from None
    raise DamagedFile(str(folder), f"it was replaced {_READS} times while it was read")


def _fetch(source: ObjectPath, manifest: FolderManifest, copy: Path) -> None:
    """Download the files of a version. The caller holds the lock of the copy."""
    scratch = copy.with_name(f".{copy.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # Of a process that died.
    with naming_storage_errors(copy, "a copy of a folder"):
        for name, (_, sha256) in manifest.files.items():
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (source / name).download(target)
            if file_sha256(target) != sha256:
                raise DamagedFile(str(source / name), "its checksum does not match its content")
        os.rename(scratch, copy)


def _copy_path(folder: ObjectPath, version: str) -> Path:
    place = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    # The name stays last: a checkpoint's folder is named after its step.
    return node_folder() / "folders" / f"{place}-{version}" / folder.name


def _evict() -> None:
    """Delete the copies that were not used for longest, until those left fit."""
    copies = []
    for entry in (node_folder() / "folders").glob("*/*"):
        with suppress(OSError):
            if not entry.name.startswith("."):
                size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
                copies.append((entry.parent.stat().st_mtime, size, entry))
    total, now = sum(size for _, size, _ in copies), time.time()
    for used, size, entry in sorted(copies):
        if total <= MAX_COPIES_BYTES or now - used < _IN_USE_SECONDS:
            return
        shutil.rmtree(entry.parent, ignore_errors=True)
        total -= size
