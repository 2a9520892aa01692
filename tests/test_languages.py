"""Language tags: one spelling, and names that are none are refused."""

from __future__ import annotations

import contextlib
from itertools import product
from pathlib import Path
from string import ascii_lowercase

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.languages.tags import normalise_tag


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
    assert normalise_tag(tag) == canonical
    assert normalise_tag(canonical) == canonical


@pytest.mark.parametrize(
    ("tag", "canonical"),
    [
        ("deu", "de"),
        ("afr", "af"),
        ("arb", "ar"),
        ("cmn", "zh"),
        ("ELL", "el"),
        ("eng-GB", "en-GB"),
        ("srp-Cyrl", "sr"),
        ("zho_Hant_TW", "zh-TW"),
        ("prs", "fa-AF"),
        ("prs-TJ", "fa-TJ"),
        ("hbs", "sr-Latn"),
        ("hbs-Cyrl", "sr"),
        ("ckb-Arab", "ckb"),
        ("bem", "bem"),
        ("fil", "fil"),
        ("tl", "tl"),
        ("tgl", "tl"),
        ("twi_Latn", "tw"),
        ("daf", "daf"),
    ],
)
def test_three_letters_become_two_where_the_language_has_them(tag: str, canonical: str) -> None:
    assert normalise_tag(tag) == canonical
    assert normalise_tag(canonical) == canonical


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
        ("srp_Cyrl", "sr"),
        ("srp_Latn", "sr-Latn"),
        ("sr-Cyrl-RS", "sr-RS"),
        ("sr-Latn-ME", "sr-ME"),  # there Latin is likely
        ("zh-Hant-TW", "zh-TW"),
        ("zh-Hant-HK", "zh-HK"),
        ("zh-Hans-TW", "zh-Hans-TW"),
        ("pan_Guru", "pa"),
        ("pa-Arab-PK", "pa-PK"),
        ("uz_Latn_UZ", "uz-UZ"),
        ("ko-Kore", "ko"),
        ("aze-Latn", "az"),
        ("az-Arab", "az-Arab"),
        ("khk_Cyrl", "mn"),
        ("knc_Arab", "kr-Arab"),
        ("de", "de"),
    ],
)
def test_the_default_script_of_a_language_is_left_out(code: str, tag: str) -> None:
    assert normalise_tag(code) == tag
    assert normalise_tag(tag) == tag


@pytest.mark.parametrize(
    ("retired", "tag"),
    [
        ("iw", "he"),
        ("in", "id"),
        ("ji", "yi"),
        ("jw", "jv"),
        ("mo", "ro"),
        ("sh", "sr-Latn"),
        ("bh", "bho"),
        ("mo-MD", "ro-MD"),
        ("iw_IL", "he-IL"),
        ("in-Latn", "id"),
        ("zh-min-nan", "nan"),
        ("zh_min_nan", "nan"),
        ("zh-cmn-Hans", "zh"),
        ("zh-cmn-Hant", "zh-Hant"),
        ("zh-yue", "yue"),
        ("zho-yue", "yue"),
        ("zh-yue-HK", "yue-HK"),
        ("ar-arz", "arz"),
        ("sgn-ase", "ase"),
        ("no-bok", "nb"),
        ("no-nyn", "nn"),
        ("i-klingon", "tlh"),
        ("i-lux", "lb"),
        ("art-lojban", "jbo"),
        ("en-GB-oed", "en-GB-oxendict"),
        ("hy-arevmda", "hyw"),
        ("en-UK", "en-GB"),
        ("de-DD", "de-DE"),
        ("my-BU", "my-MM"),
        ("uk-SU", "uk-UA"),
        ("en-840", "en-US"),
        ("es-419", "es-419"),
        ("kgm", "plu"),
        ("ktr", "dtp"),
        ("scc", "sr"),
        ("mol", "ro"),
        ("kzj", "kzj"),  # Tatoeba publishes it beside dtp,
        ("ajp", "ajp"),  # and FLORES-200 this one beside apc
        ("mhr", "mhr"),  # not retired: CLDR names its macrolanguage
    ],
)
def test_retired_tags_become_their_successors(retired: str, tag: str) -> None:
    assert normalise_tag(retired) == tag
    assert normalise_tag(retired.upper()) == tag
    assert normalise_tag(tag) == tag


@pytest.mark.parametrize("length", [2, 3])
def test_every_tag_that_a_code_becomes_stays_as_it_is(length: int) -> None:
    for code in map("".join, product(ascii_lowercase, repeat=length)):
        with contextlib.suppress(ValueError):
            assert normalise_tag(normalise_tag(code)) == normalise_tag(code)


def test_languages_of_flores_and_tatoeba_stay_apart(shared_data: Path) -> None:
    for file, column in (("flores_devtest", "lang"), ("tatoeba", "lang3")):
        codes = pq.read_table(shared_data / "eval" / f"{file}.parquet", columns=[column])[column].unique().to_pylist()
        assert len(set(map(normalise_tag, codes))) == len(codes) > 100


@pytest.mark.parametrize(
    "tag", ["", "english", "e", "xx", "qq-DE", "de-", "de--DE", "en US x", "12", "de/at", "de-yue", "zh-yue-cmn"]
)
def test_other_strings_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match=r"BCP-47|registered"):
        normalise_tag(tag)


@given(st.text(max_size=12))
def test_any_text_is_normalised_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert normalise_tag(normalise_tag(text)) == normalise_tag(text)
