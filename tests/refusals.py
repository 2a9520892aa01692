"""Checks of errors by their codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hbt_ray.errors import HbtError


@contextmanager
def refused(error: type[HbtError], code: str, *names: str) -> Iterator[None]:
    """The block raises this error with this code, and its message contains what the user has to look at."""
    with pytest.raises(error) as caught:
        yield
    assert caught.value.code == code
    for name in names:
        assert name in str(caught.value)
