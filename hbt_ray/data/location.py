"""Locations: a path, or the URI of an object store (`s3://`, `gs://`, `file://`), read through `pyarrow.fs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pyarrow import fs
from pydantic import BeforeValidator

Location = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""A path, or a URI; never a `Path`, which would make `s3:/bucket` of `s3://bucket`."""


def is_uri(location: str | Path) -> bool:
    return "://" in str(location)


def filesystem(location: str) -> tuple[Any, str]:
    """The `pyarrow.fs` file system of a location, and its path within."""
    if is_uri(location):
        system, path = fs.FileSystem.from_uri(location)
        return system, path
    return fs.LocalFileSystem(), location


def name(location: str) -> str:
    """The location without a URI's `?options`."""
    return location.partition("?")[0] if is_uri(location) else location


def child(folder: str, file: str) -> str:
    """The location of a file in a folder."""
    head = name(folder)
    return f"{head.rstrip('/')}/{file}{folder[len(head) :]}"


def absolute(location: str) -> str:
    """The same in any working directory of this file system; a URI is so already."""
    return location if is_uri(location) else str(Path(location).absolute())
