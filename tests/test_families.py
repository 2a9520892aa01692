"""Families: known for every language of the data sets that the project reads, and for any other string no error."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.languages import families
from hbt_ray.languages.families import UNKNOWN, Family, family
from hbt_ray.languages.tags import normalise_tag

XQUAD_R = "ar de el en es hi ru th tr vi zh"
MLQA_R = "ar de en es hi vi zh"
MIRACL = "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh"
XTREME_TATOEBA = (
    "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur vi zh"
)
MEWSLI_X = (
    "af ar az bg bn de el en es et eu fa fi fr gu he hi ht hu id it ja jv ka kk ko lt ml mr ms my nl pa pl pt qu ro ru "
    "sw ta te th tl tr uk ur vi wo yo zh"
)
WITHOUT_SCRIPT = {"ber"}
"""Berber, in Tatoeba: a group of languages in several scripts."""


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("de", Family("Indo-European", "Germanic", "Latn")),
        ("DEU", Family("Indo-European", "Germanic", "Latn")),
        ("hi", Family("Indo-European", "Indo-Aryan", "Deva")),
        ("ur", Family("Indo-European", "Indo-Aryan", "Arab")),
        ("el", Family("Indo-European", "Greek", "Grek")),
        ("no", Family("Indo-European", "Germanic", "Latn")),
        ("ar", Family("Afro-Asiatic", "Semitic", "Arab")),
        ("th", Family("Kra-Dai", "Tai", "Thai")),
        ("vi", Family("Austro-Asiatic", "Vietic", "Latn")),
        ("tr", Family("Turkic", "Oghuz", "Latn")),
        ("sw", Family("Niger-Congo", "Bantu", "Latn")),
        ("ja", Family("Japonic", "Japanese", "Jpan")),
        ("ko", Family("Koreanic", "Korean", "Kore")),
        ("eu", Family("Basque", "Basque", "Latn")),
        ("ht", Family("Creole", "French-based", "Latn")),
        ("prs", Family("Indo-European", "Iranian", "Arab")),
    ],
)
def test_families_of_well_known_languages(tag: str, expected: Family) -> None:
    assert family(tag) == expected


@pytest.mark.parametrize(
    ("tag", "script"),
    [
        ("zh", "Hans"),
        ("zh-TW", "Hant"),
        ("zh_Hant", "Hant"),
        ("zh-Hans-TW", "Hans"),
        ("yue", "Hant"),
        ("sr", "Cyrl"),
        ("sr-Latn-RS", "Latn"),
        ("hbs", "Latn"),
        ("pa", "Guru"),
        ("pa-PK", "Arab"),
        ("arb_Latn", "Latn"),
        ("kas_Deva", "Deva"),
        ("ca-valencia", "Latn"),
        ("en-GB", "Latn"),
        ("mhr", "Cyrl"),
    ],
)
def test_the_tags_own_script_comes_first_then_the_likely_one(tag: str, script: str) -> None:
    assert family(tag).script == script


@pytest.mark.parametrize("tags", [XQUAD_R, MLQA_R, MIRACL, XTREME_TATOEBA, MEWSLI_X])
def test_evaluation_languages_are_all_known(tags: str) -> None:
    for tag in tags.split():
        found = family(tag)
        assert UNKNOWN not in (found.family, found.branch, found.script), tag


@pytest.mark.parametrize(
    ("path", "column", "num_languages"),
    [
        ("eval/tatoeba.parquet", "lang3", 112),
        ("eval/flores_devtest.parquet", "lang", 204),
        ("train/bitext_ntrex128.parquet", "lang", 128),
        ("train/bitext_tico19.parquet", "lang", 37),
    ],
)
def test_languages_of_real_data_are_all_known(shared_data: Path, path: str, column: str, num_languages: int) -> None:
    tags = pq.read_table(shared_data / path, columns=[column])[column].unique().to_pylist()
    assert len(tags) == num_languages
    assert [tag for tag in tags if UNKNOWN in (family(tag).family, family(tag).branch)] == []
    assert {normalise_tag(tag) for tag in tags if family(tag).script == UNKNOWN} <= WITHOUT_SCRIPT


def test_every_language_stands_in_one_place_under_its_normal_name() -> None:
    text = Path(families.__file__).with_name("families.yaml").read_text(encoding="utf-8")
    table = yaml.safe_load(text)
    codes = [code for row in table.values() for codes in row.values() for code in codes]
    assert len(codes) == len(set(codes)) > 300
    assert [code for code in codes if normalise_tag(code) != code] == []
    assert list(table) == sorted(table)
    assert all(list(row) == sorted(row) for row in table.values())


@pytest.mark.parametrize("tag", ["", "xx", "english", "qq-DE", "zzz", "art"])
def test_others_are_unknown(tag: str) -> None:
    assert family(tag) == Family(UNKNOWN, UNKNOWN, UNKNOWN)


@given(st.text(max_size=12))
def test_no_text_is_an_error(text: str) -> None:
    assert isinstance(family(text), Family)
