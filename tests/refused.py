"""Expecting an error of the user's input by its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hbt_ray.errors import InputError


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    """Expect an `InputError` with this code, whose message has these words: what is wrong, and where."""
    with pytest.raises(InputError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)
