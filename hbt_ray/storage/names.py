"""Check names that become files and folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from hbt_ray.errors import InputError

MAX_NAME_BYTES = 200
"""File systems allow 255 bytes; the rest is left for suffixes and scratch names."""


def valid_name(name: str, kind: str) -> str:
    """Return a name that becomes a file or folder, such as that of a run, a task or a data set, if it is valid.

    Args:
        kind: what the name is for, such as `run`; used in the error.

    Raises:
        InputError: the name is empty, hidden, `.` or `..`, too long, or contains a slash or a control character.
    """
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


def valid_relative_path(path: str, kind: str) -> str:
    """Return a path below a folder, such as that of a shard in a manifest, if each of its parts is a valid name.

    Raises:
        InputError: the path is absolute, leaves the folder, or one of its parts is not a valid name.
    """
    for part in path.split("/"):
        valid_name(part, kind)
    return path


def _validator(check: Callable[[str, str], str]) -> AfterValidator:
    """A check as a Pydantic validator, which has to raise `ValueError` for Pydantic to name the field."""

    def validate(value: str) -> str:
        try:
            return check(value, "the name")
        except InputError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(validate)


Name = Annotated[str, _validator(valid_name)]
"""Field of a configuration or manifest that becomes the name of a file or folder."""
RelativePath = Annotated[str, _validator(valid_relative_path)]
"""Field of a manifest that names a file below the manifest's folder."""
