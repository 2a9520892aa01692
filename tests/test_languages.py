"""Language tags: one spelling, and names that are none are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.languages import normalise


@pytest.mark.parametrize(
    ("tag", "canonical"),
    [
        ("de", "de"),
        ("EN", "en"),
        ("zh_hant", "zh-Hant"),
        ("pt-br", "pt-BR"),
        ("sr-latn-rs", "sr-Latn-RS"),
        ("es-419", "es-419"),
        ("yue", "yue"),
        ("ca-valencia", "ca-valencia"),
        (" fr ", "fr"),
    ],
)
def test_tags_have_one_spelling(tag: str, canonical: str) -> None:
    assert normalise(tag) == canonical
    assert normalise(canonical) == canonical


@pytest.mark.parametrize("tag", ["", "english", "e", "xx", "qq-DE", "de-", "de--DE", "en US x", "12", "de/at"])
def test_other_strings_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match=r"BCP-47|registered"):
        normalise(tag)


@given(st.text(max_size=12))
def test_any_text_is_normalised_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert normalise(normalise(text)) == normalise(text)
