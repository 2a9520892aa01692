"""Names that become files and folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from hbt_ray.errors import InputError

MAX_NAME_BYTES = 200
"""File systems allow 255 bytes; the rest is for suffixes and scratch names."""


def valid_name(name: str, what: str) -> str:
    """Check a name that becomes a file or a folder, such as that of a run, a task or a data set.

    Raises:
        InputError: the name is empty, hidden, `.` or `..`, too long, or holds a slash or a control character.
    """
    size = len(name.encode("utf-8", errors="surrogatepass"))
    if not name or name.startswith((".", "~")) or name != name.strip():
        problem = "is empty, starts with '.' or '~', or has white space at an end"
    elif "/" in name or "\\" in name or not name.isprintable():
        problem = "holds a slash, a backslash or a character that cannot be printed"
    elif size > MAX_NAME_BYTES:
        problem = f"has {size} bytes in UTF-8, and the limit is {MAX_NAME_BYTES}"
    else:
        return name
    shown = name if len(name) <= 40 else name[:40] + "…"
    raise InputError(
        f"{what} {shown!r} cannot name a file or folder: it {problem}. Choose another name, such as 'faq-hybrid'",
        code="INVALID_NAME",
    )


def valid_relative_path(path: str, what: str) -> str:
    """Check a path below a folder, such as that of a shard in a manifest: its parts are valid names.

    Raises:
        InputError: it is absolute, leaves the folder, or see `valid_name`.
    """
    for part in path.split("/"):
        valid_name(part, what)
    return path


def _for_pydantic(check: Callable[[str, str], str]) -> AfterValidator:
    """Pydantic collects `ValueError`s and says which field they belong to."""

    def validate(value: str) -> str:
        try:
            return check(value, "the name")
        except InputError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(validate)


Name = Annotated[str, _for_pydantic(valid_name)]
"""A field of a configuration or a manifest that becomes the name of a file or folder."""
RelativePath = Annotated[str, _for_pydantic(valid_relative_path)]
"""A field of a manifest that names a file below the manifest's folder."""
