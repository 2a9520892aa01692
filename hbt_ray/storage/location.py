"""Locations: a path, or the URI of an object store (`s3://`, `gs://`, `file://`), read through `pyarrow.fs`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from pyarrow import fs
from pydantic import BeforeValidator

from hbt_ray.errors import LocationError, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Location = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""A path, or a URI; never a `Path`, which would make `s3:/bucket` of `s3://bucket`."""


RETRY_SECONDS = (0.5, 2.0, 8.0)
"""Waiting times between the tries of one request."""
GCS_RETRY_SECONDS = 30


def is_uri(location: str | Path) -> bool:
    return "://" in str(location)


def filesystem(location: str, file: str = "") -> tuple[Any, str]:
    """The `pyarrow.fs` file system of a location, and the location's path in it.

    Args:
        file: path below the location to append. Appended to the URI itself it would have to be percent-encoded.

    Raises:
        LocationError: the URI is malformed, or of no kind that can be opened here.
        OSError: the object store cannot be reached.
    """
    suffix = f"/{file}" if file else ""
    if not is_uri(location):
        return fs.LocalFileSystem(), location.rstrip("/") + suffix if file else location
    try:
        system, path = fs.FileSystem.from_uri(_with_patience(location))
    except (pa.ArrowException, UnicodeEncodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LocationError(
            f"{location}: cannot be opened ({reason}); give a path, or a URI such as s3://bucket/folder or "
            "gs://bucket/folder"
        ) from None
    return system, path.rstrip("/") + suffix if file else path


def _with_patience(location: str) -> str:
    """Google's client asks for 15 minutes by default before it says that there is no answer; `patiently` asks again."""
    if not location.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in location:
        return location
    return f"{location}{'&' if '?' in location else '?'}retry_limit_seconds={GCS_RETRY_SECONDS}"


@contextmanager
def naming_connection_errors(location: str) -> Iterator[None]:
    """An object store that cannot be reached within the block becomes one error that names the location.

    Raises:
        StoreError: there is no answer, or it is a refusal.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if not is_uri(location):
            raise
        raise StoreError(
            f"{location}: cannot be reached ({' '.join(str(error).split())[:300]}); check the name, the network and "
            "the credentials, then run the same command again",
            code="UNREACHABLE",
        ) from None


def local_path(location: str) -> Path | None:
    """Where a location lies on this machine; None in an object store."""
    if not is_uri(location):
        return Path(location)
    with naming_connection_errors(location):
        system, path = filesystem(location)
    return Path(path) if isinstance(system, fs.LocalFileSystem) else None


def without_options(location: str) -> str:
    """The location without a URI's `?options`."""
    return location.partition("?")[0] if is_uri(location) else location


def join_location(folder: str, file: str) -> str:
    """The location of a file in a folder."""
    head = without_options(folder)
    return f"{head.rstrip('/')}/{file}{folder[len(head) :]}"


def absolute(location: str) -> str:
    """The same in any working directory of this file system; a URI is so already."""
    return location if is_uri(location) else str(Path(location).absolute())


def with_retries(request: Callable[[], T], location: str) -> T:
    """Ask an object store again after errors that may pass: a missing file does not, nor one that is no Arrow file.

    Raises:
        FileNotFoundError: at once.
        StoreError: the last try failed as well.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return request()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if not isinstance(error, OSError) and type(error) is not pa.ArrowException:
                raise  # The file is damaged. Azure's client reports failures of the network as the base class.
            reason = " ".join(str(error).split())[:300]
        if seconds is not None:
            logger.warning("%s: %s; asked again in %g s", location, reason, seconds)
            time.sleep(seconds)
    raise StoreError(
        f"{location}: cannot be read after {len(RETRY_SECONDS) + 1} tries ({reason}); check the network and the "
        "credentials, then run the same command again. `hbt store verify` tells whether the store is damaged",
        code="UNREACHABLE",
    )
