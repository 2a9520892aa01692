"""Language tags: one spelling, and names that are none are refused."""

from __future__ import annotations

import contextlib
from itertools import product
from string import ascii_lowercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.languages import normalise, without_default_script


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


@pytest.mark.parametrize(
    ("tag", "canonical"),
    [
        ("deu", "de"),
        ("afr", "af"),
        ("arb", "ar"),
        ("cmn", "zh"),
        ("ELL", "el"),
        ("eng-GB", "en-GB"),
        ("srp-Cyrl", "sr-Cyrl"),
        ("zho_Hant_TW", "zh-Hant-TW"),
        ("prs", "fa-AF"),
        ("prs-TJ", "fa-TJ"),
        ("hbs", "sr-Latn"),
        ("hbs-Cyrl", "sr-Cyrl"),
        ("ckb-Arab", "ckb-Arab"),
        ("bem", "bem"),
        ("fil", "fil"),
        ("tl", "tl"),
        ("tgl", "tl"),
        ("twi_Latn", "tw-Latn"),
        ("daf", "daf"),
    ],
)
def test_three_letters_become_two_where_the_language_has_them(tag: str, canonical: str) -> None:
    assert normalise(tag) == canonical
    assert normalise(canonical) == canonical


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("eng_Latn", "en"),
        ("zho_Hans", "zh"),
        ("zho_Hant", "zh-Hant"),
        ("jpn_Jpan", "ja"),
        ("kor_Hang", "ko"),
        ("arb_Arab", "ar"),
        ("arb_Latn", "ar-Latn"),
        ("kas_Arab", "ks"),
        ("kas_Deva", "ks-Deva"),
        ("prs_Arab", "fa-AF"),
        ("twi_Latn", "tw"),
        ("qaa_Latn", "qaa-Latn"),  # CLDR does not know it
        ("pt-BR", "pt-BR"),
        ("de", "de"),
    ],
)
def test_the_default_script_of_a_language_need_not_be_said(code: str, tag: str) -> None:
    assert without_default_script(code) == tag
    assert normalise(tag) == tag


def test_every_tag_that_a_three_letter_code_becomes_stays_as_it_is() -> None:
    for code in map("".join, product(ascii_lowercase, repeat=3)):
        assert normalise(normalise(code)) == normalise(code)


@pytest.mark.parametrize("tag", ["", "english", "e", "xx", "qq-DE", "de-", "de--DE", "en US x", "12", "de/at"])
def test_other_strings_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match=r"BCP-47|registered"):
        normalise(tag)


@given(st.text(max_size=12))
def test_any_text_is_normalised_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert normalise(normalise(text)) == normalise(text)
