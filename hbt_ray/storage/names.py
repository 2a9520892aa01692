"""Names that become files and folders."""

from __future__ import annotations

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
