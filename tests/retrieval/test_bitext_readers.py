"""Readers of Tatoeba, FLORES and Mewsli-X: small files, what is wrong in them, and the real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.tasks import BitextTask, open_task
from hbt_ray.retrieval.tasks.bitext_task import LanguagePair, multiway
from tests.refused import refused
from tests.retrieval.task_files import bitext, mewslix_file, pairs, sides, task, texts, write

# Tatoeba


@pytest.fixture
def tatoeba(tmp_path: Path) -> Path:
    for code, own, english in (("deu", ["eins", "zwei"], ["one", "two"]), ("cmn", ["三"], ["three"])):
        write(tmp_path / f"tatoeba.{code}-eng.{code}", own)
        write(tmp_path / f"tatoeba.{code}-eng.eng", english)
    return tmp_path


def test_tatoeba_has_english_sentences_of_its_own_for_each_language(tatoeba: Path, tmp_path: Path) -> None:
    read = bitext(f"tatoeba={tatoeba}")
    assert sides(read) == {("de", "en"): [("eins", "one"), ("zwei", "two")], ("zh", "en"): [("三", "three")]}
    assert (read.name, read.both_ways, read.languages) == ("tatoeba", False, ["de", "en", "zh"])
    rows = [("deu", 1, "zwei", "two"), ("deu", 0, "eins", "one"), ("cmn", 0, "三", "three")]
    columns = dict(zip(("lang3", "n", "sentence", "english"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert sides(bitext(f"tatoeba={tmp_path / 't.parquet'}")) == sides(read)
    assert list(sides(bitext(f"tatoeba={tatoeba},languages=en,cmn,both_ways=true"))) == [("zh", "en")]


def test_tatoeba_that_is_not_aligned_is_refused(tatoeba: Path) -> None:
    with refused("MISSING_LANGUAGE", "'fr'", "de, zh"):
        open_task(f"tatoeba={tatoeba}", ["en", "fr"])
    with pytest.raises(ConfigError, match="subset=xtreme names the languages already"):
        open_task(f"tatoeba={tatoeba},subset=xtreme", ["de"])
    with refused("NO_PAIR"):
        open_task(f"tatoeba={tatoeba}", ["en"])
    with refused("MISSING_LANGUAGE", "'af'"):
        bitext(f"tatoeba={tatoeba},subset=xtreme")
    write(tatoeba / "tatoeba.deu-eng.deu", ["eins", "", "zwei"])
    with refused("BLANK_LINE", "deu-eng.deu:2"):
        bitext(f"tatoeba={tatoeba}")
    write(tatoeba / "tatoeba.deu-eng.deu", ["eins", "zwei", "drei"])
    with refused("NOT_ALIGNED", "3 sentences in 'de' for 2 in 'en'"):
        bitext(f"tatoeba={tatoeba}")
    (tatoeba / "tatoeba.deu-eng.deu").unlink()
    with refused("NO_FILE", "deu-eng.deu"):
        bitext(f"tatoeba={tatoeba}")


def test_tatoeba_has_the_published_counts(shared_data: Path) -> None:
    read = bitext(f"tatoeba={shared_data}/eval/tatoeba.parquet,subset=xtreme")
    found = {pair.source: len(pair.source_rows) for pair in read.pairs}
    assert (len(found), found["de"], found["sw"], found["jv"], found["tl"]) == (36, 1000, 390, 205, 1000)
    assert len(bitext(f"tatoeba={shared_data}/eval/tatoeba.parquet").pairs) == 112


# FLORES


@pytest.fixture
def flores(tmp_path: Path) -> Path:
    lines = {"eng_Latn": ["one", "two"], "deu_Latn": ["eins", "zwei"], "zho_Hans": ["一", "两"],
             "zho_Hant": ["一", "兩"]}  # fmt: skip
    for code, sentences in lines.items():
        write(tmp_path / "devtest" / f"{code}.devtest", sentences)
    return tmp_path


def test_flores_pairs(flores: Path) -> None:
    read = bitext(f"flores={flores},languages=en,de,zh-Hant")
    assert sides(read) == {
        ("de", "en"): [("eins", "one"), ("zwei", "two")],
        ("de", "zh-Hant"): [("eins", "一"), ("zwei", "兩")],
        ("en", "zh-Hant"): [("one", "一"), ("two", "兩")],
    }
    assert (read.both_ways, read.sentences.num_rows) == (True, 6)
    assert [pair[:2] for pair in bitext(f"flores={flores},pivot=en").pairs] == [
        ("de", "en"), ("zh", "en"), ("zh-Hant", "en"),
    ]  # fmt: skip
    assert [pair[:2] for pair in bitext(f"flores={flores},pivot=en,languages=de").pairs] == [("de", "en")]


def test_flores_pool(flores: Path) -> None:
    read = task(f"flores={flores},search=pool,languages=en,de")
    assert texts(read.queries) == texts(read.documents) == {
        "de_0": "eins", "de_1": "zwei", "en_0": "one", "en_1": "two",
    }  # fmt: skip
    assert pairs(read) == {(f"{x}_{n}", f"{y}_{n}") for x in ("de", "en") for y in ("de", "en") for n in (0, 1)}


def test_flores_that_makes_no_sense_is_refused(flores: Path) -> None:
    with pytest.raises(ConfigError, match="pivot is for search=pairs"):
        open_task(f"flores={flores},search=pool,pivot=en")
    with refused("MISSING_LANGUAGE", "'fr'"):
        open_task(f"flores={flores},pivot=fr")
    with refused("NO_PAIR"):
        open_task(f"flores={flores},languages=en")
    with refused("NO_FILE"):
        open_task(f"flores={flores},split=dev")
    write(flores / "devtest" / "fra_Latn.devtest", ["un"])
    with refused("NOT_ALIGNED", "2 sentences in 'en' for 1 in 'fr'"):
        open_task(f"flores={flores},languages=en,fr")
    write(flores / "devtest" / "german.devtest", ["eins"])
    with refused("INVALID_LANGUAGE", "'german'"):
        open_task(f"flores={flores}")
    (flores / "devtest" / "german.devtest").unlink()
    write(flores / "devtest" / "zho_Latn.devtest", ["yi"])
    write(flores / "devtest" / "cmn_Hans.devtest", ["一"])
    with refused("LANGUAGE_TWICE", "cmn_Hans and zho_Hans"):
        open_task(f"flores={flores}")


def test_flores_has_the_published_counts(shared_data: Path) -> None:
    path = shared_data / "eval/flores_devtest.parquet"
    read = bitext(f"flores={path},pivot=en")
    assert (len(read.pairs), read.sentences.num_rows) == (203, 204 * 1012)
    with refused("TOO_MANY_LANGUAGES", "204"):
        bitext(f"flores={path}")


def test_bitext_refuses_empty_sentences_and_pairs_that_are_none() -> None:
    with refused("EMPTY_TEXT", "'de'"):
        multiway("m", {"de": ["eins", " "], "en": ["one", "two"]}, None)
    sentences = multiway("m", {"de": ["eins"], "en": ["one"]}, None).sentences
    for wrong in (
        [LanguagePair("de", "de", range(1), range(1))],
        [LanguagePair("de", "en", range(1), range(1, 2))] * 2,
    ):
        with refused("PAIR_TWICE"):
            BitextTask("m", sentences, wrong, both_ways=True)


def test_mewsli_x_is_written_as_in_the_baseline_of_xtreme_r(tmp_path: Path) -> None:
    read = task(f"mewsli-x={mewslix_file(tmp_path)}")
    assert (read.name, read.measures, read.languages) == ("mewsli-x", ("AP@20",), ["de", "en", "ja"])
    assert texts(read.queries) == {"m1": "Helsinki: In { Helsinki } , the union went on strike."}
    assert texts(read.documents) == {"Q1757": "Helsinki ist eine Stadt.", "Q1": "宇宙。"}
    assert pairs(read) == {("m1", "Q1757")}
    with refused("MISSING_LANGUAGE", "'de'"):
        open_task(f"mewsli-x={tmp_path}", ["de"])


WRONG_MEWSLIX: dict[str, tuple[dict[str, Any], str, str]] = {
    "text": ({"context": {"text": ""}}, "BAD_ROW", ":1: context: text is empty"),
    "language": ({"context": {"language": "english"}}, "INVALID_LANGUAGE", ":1: context: 'english'"),
    "span": ({"mention": {"mention_span": {"start": 2, "end": 9, "text": "Oslo"}}}, "BAD_ROW", ":1: mentions[0]: "),
    "outside": ({"mention": {"mention_span": {"start": 15, "end": 20}}}, "BAD_ROW", "characters 15 to 20"),
    "missing": ({"mention": {"entity_id": None}}, "BAD_ROW", ":1: mentions[0]: "),
    "unknown": ({"mention": {"entity_id": "Q9"}}, "UNKNOWN_DOCUMENTS", "'Q9'"),
}


@pytest.mark.parametrize("fault", WRONG_MEWSLIX)
def test_mewsli_x_names_what_is_wrong(tmp_path: Path, fault: str) -> None:
    changes, code, words = WRONG_MEWSLIX[fault]
    with refused(code, words):
        task(f"mewsli-x={mewslix_file(tmp_path, **changes)}")
