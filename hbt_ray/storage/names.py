"""Validation of names that become files and folders."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from hbt_ray.errors import InputError

MAX_NAME_BYTES = 200
"""File systems allow 255 bytes; the rest is left for suffixes and scratch names."""


def valid_name(name: str, kind: str) -> str:
    """Return the name of a run, a task or a data set if it is valid as the name of a file or folder.

    Args:
        kind: thing that is named, such as `run`, for the error.

    Raises:
        InputError: the name is empty, hidden, `.` or `..`, too long, or contains a slash or a control character.
    """
    # Surrogates only count here; `isprintable` refuses them below.
    size = len(name.encode("utf-8", errors="surrogatepass"))
    if not name or name.startswith((".", "~")) or name != name.strip():
        problem = "is empty, starts with '.' or '~', or has white space at an end"
    elif "/" in name or "\\" in name or not name.isprintable():
        problem = "contains a slash, a backslash or an unprintable character"
    elif size > MAX_NAME_BYTES:
        problem = f"has {size} bytes in UTF-8, and the limit is {MAX_NAME_BYTES}"
    else:
        return name
    shown = name if len(name) <= 40 else name[:40] + "…"
    raise InputError(
        f"{kind} {shown!r} cannot name a file or folder: it {problem}. Choose another name, such as 'faq-hybrid'",
        code="INVALID_NAME",
    )


def _validated(name: str) -> str:
    try:
        return valid_name(name, "the name")
    except InputError as error:  # Pydantic names the field of a `ValueError` only.
        raise ValueError(str(error)) from None


Name = Annotated[str, AfterValidator(_validated)]
"""Field of a configuration or manifest that becomes the name of a file or folder."""
RelativePath = Annotated[str, AfterValidator(lambda path: "/".join(map(_validated, path.split("/"))))]
"""Field of a manifest that names a file below the manifest's folder: each of its parts is a valid name."""
