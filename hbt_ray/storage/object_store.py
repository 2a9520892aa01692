"""Requests to file systems and object stores: the client for a location, retries, and errors that name the location."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from hbt_ray.errors import LocationError, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = (0.5, 2.0, 8.0)
"""Waiting times between the attempts of one request, in seconds."""
_GCS_RETRY_SECONDS = 30
"""Time limit of the retries of Google's client, in seconds. Its default is 15 minutes; `with_retries` retries too."""
_PERMANENT = ("NO_SUCH_BUCKET", "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH",
              "INVALID_CLIENT_TOKEN_ID", "PermanentRedirect")  # fmt: skip
"""Parts of messages of object stores that say that another attempt would fail as well."""


def is_uri(location: str | Path) -> bool:
    """Whether a location is a URI and not a path."""
    return "://" in str(location)


def without_options(location: str) -> str:
    """The location without the `?options` of a URI."""
    return location.partition("?")[0] if is_uri(location) else location


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
        # Arrow knows Azure by its older scheme.
        uri = f"abfs{location[2:]}" if location.startswith("az://") else location
        if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={_GCS_RETRY_SECONDS}"
        try:
            # Region, endpoint and the like come from the URI's options.
            system, path = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise LocationError(
                f"{location}: cannot be opened ({_one_line(error)}). Give a path, or a URI such as s3://bucket/folder "
                "or gs://bucket/folder"
            ) from None
    return system, f"{path.rstrip('/')}/{file}" if file else path


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def naming_connection_errors(location: str) -> Iterator[None]:
    """Raise a `StoreError` that names the location if an object store does not answer or refuses within the block.

    A `FileNotFoundError` is raised unchanged.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if not is_uri(location):
            raise
        raise StoreError(
            f"{location}: cannot be reached ({_one_line(error)}). Check the name, the network and the credentials, "
            "then run the same command again",
            code="UNREACHABLE",
        ) from None


def with_retries(request: Callable[[], T], location: str, *, missing_is_temporary: bool = False) -> T:
    """Return the result of a request to an object store. The request is repeated after errors that may be temporary.

    A damaged Arrow file, a bucket that does not exist and refused credentials are not temporary.

    Args:
        location: requested file or folder, for errors.
        missing_is_temporary: the file exists, so a request that does not find it is repeated as well.

    Raises:
        FileNotFoundError: immediately, or after the last attempt if a missing file is temporary.
        StoreError: the last attempt failed as well.
    """
    # None: no wait after the last attempt.
    for seconds in (*RETRY_SECONDS, None):
        try:
            return request()
        except FileNotFoundError as error:
            if not missing_is_temporary or seconds is None:
                raise
            reason = _one_line(error)
        except (OSError, pa.ArrowException) as error:
            # Subclasses of ArrowException mean damage. Azure's client reports network failures as the base class.
            if not isinstance(error, OSError) and type(error) is not pa.ArrowException:
                raise
            reason = _one_line(error)
            if any(word in reason for word in _PERMANENT):
                break
        if seconds is not None:
            logger.warning("%s: %s; trying again in %g s", location, reason, seconds)
            time.sleep(seconds)
    raise StoreError(
        f"{location}: the object store does not answer or refuses ({reason}). Check the bucket's name, the network and "
        "the credentials, then run the same command again",
        code="UNREACHABLE",
    ) from OSError(reason)
