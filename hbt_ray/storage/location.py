"""Locations: a path, or the URI of an object store (`s3://`, `gs://`, `file://`), resolved with `pyarrow.fs`."""

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
"""A path or a URI, as a string: a `Path` would turn `s3://bucket` into `s3:/bucket`."""

RETRY_SECONDS = (0.5, 2.0, 8.0)
"""Waiting times between the attempts of one request."""
GCS_RETRY_SECONDS = 30
"""Time limit of Google's own retries. Its default is 15 minutes; `with_retries` repeats the request as well."""


def is_uri(location: str | Path) -> bool:
    """Whether a location is a URI and not a path."""
    return "://" in str(location)


def filesystem(location: str, file: str = "") -> tuple[Any, str]:
    """The `pyarrow.fs` file system of a location, and the location's path in it.

    Args:
        file: path below the location to append. In a URI it would have to be percent-encoded.

    Raises:
        LocationError: the URI is malformed, or its scheme is not supported.
        OSError: the object store cannot be reached.
    """
    if not is_uri(location):
        system, path = fs.LocalFileSystem(), location
    else:
        try:
            system, path = fs.FileSystem.from_uri(_with_gcs_limit(location))
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise LocationError(
                f"{location}: cannot be opened ({_reason(error)}). Give a path, or a URI such as s3://bucket/folder or "
                "gs://bucket/folder"
            ) from None
    return system, f"{path.rstrip('/')}/{file}" if file else path


def _with_gcs_limit(location: str) -> str:
    if not location.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in location:
        return location
    return f"{location}{'&' if '?' in location else '?'}retry_limit_seconds={GCS_RETRY_SECONDS}"


def _reason(error: BaseException) -> str:
    """The message of an error in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


@contextmanager
def naming_connection_errors(location: str) -> Iterator[None]:
    """Raise a `StoreError` that names the location if an object store cannot be reached within the block.

    Raises:
        FileNotFoundError: unchanged.
        StoreError: the object store does not answer or refuses.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if not is_uri(location):
            raise
        raise StoreError(
            f"{location}: cannot be reached ({_reason(error)}). Check the name, the network and the credentials, then "
            "run the same command again",
            code="UNREACHABLE",
        ) from None


def with_retries(request: Callable[[], T], location: str) -> T:
    """The result of a request to an object store, which is repeated after errors that may be temporary.

    A missing file and a damaged Arrow file are not temporary.

    Args:
        location: what is requested, for errors.

    Raises:
        FileNotFoundError: immediately.
        StoreError: the last attempt failed as well.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return request()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            # Subclasses of ArrowException mean damage. Azure's client reports network failures as the base class.
            if not isinstance(error, OSError) and type(error) is not pa.ArrowException:
                raise
            reason = _reason(error)
        if seconds is not None:
            logger.warning("%s: %s; trying again in %g s", location, reason, seconds)
            time.sleep(seconds)
    raise StoreError(
        f"{location}: cannot be read after {len(RETRY_SECONDS) + 1} attempts ({reason}). Check the network and the "
        "credentials, then run the same command again. `hbt store verify` shows whether the store is damaged",
        code="UNREACHABLE",
    )


def local_path(location: str) -> Path | None:
    """The path of a location on this machine; None if it is in an object store."""
    if not is_uri(location):
        return Path(location)
    with naming_connection_errors(location):
        system, path = filesystem(location)
    return Path(path) if isinstance(system, fs.LocalFileSystem) else None


def without_options(location: str) -> str:
    """The location without the `?options` of a URI."""
    return location.partition("?")[0] if is_uri(location) else location


def join_location(folder: str, file: str) -> str:
    """The location of a file in a folder; the options of a URI stay at its end."""
    head = without_options(folder)
    return f"{head.rstrip('/')}/{file}{folder[len(head) :]}"


def absolute(location: str) -> str:
    """The location as an absolute path; a URI is unchanged."""
    return location if is_uri(location) else str(Path(location).absolute())
