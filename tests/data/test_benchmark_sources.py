"""Sources of published benchmarks: SQuAD, BEIR, MIRACL, mMARCO, bitext, the hub, and the real data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.data.formats.training_pairs import UNANSWERABLE
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.errors import ConfigError
from tests.data.source_rows import EXPECTED, GOOD_ROW, ROWS, keys, read, write
from tests.refused import refused

CONTEXT = "Rome is old. Paris is big.  Oslo is cold."
QAS = [
    {"id": "a", "question": "Old?", "answers": [{"answer_start": 0, "text": "Rome"}]},
    {"id": "b", "question": "Cold?", "answers": [{"answer_start": 28, "text": "Oslo"}]},
    {"id": "c", "question": "Gap?", "answers": [{"answer_start": 27, "text": " "}]},
    {"id": "d", "question": "None?", "answers": []},
]


def squad(path: Path, **paragraph: Any) -> Path:
    tree = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": QAS, **paragraph}]}]}
    return write(path, json.dumps(tree))


def test_squad_paragraphs(tmp_path: Path) -> None:
    rows, bad = read(kind="squad", files={"en": squad(tmp_path / "en.json")})
    assert [(row.item_id, row.passage, row.passage_id) for row in rows] == [(q, CONTEXT, "0.0") for q in "abcd"]
    assert not bad


def test_squad_sentences_are_those_of_the_answers(tmp_path: Path) -> None:
    breaks = [[0, 12], [13, 26], [28, 41]]
    path = squad(tmp_path / "en.json", sentence_breaks=breaks)
    rows, bad = read(kind="squad", files={"en": path}, passage="sentence")
    assert [(row.item_id, row.passage) for row in rows] == [("a", "Rome is old."), ("b", "Oslo is cold.")]
    assert [row.where for row in bad] == [f"{path}: data[0].paragraphs[0].qas[{q}]" for q in (2, 3)]
    whole, _ = read(kind="squad", files={"en": squad(path)}, passage="sentence")
    assert [row.passage for row in whole] == [CONTEXT] * 4


def test_squad_2_questions_without_an_answer_are_rejected(tmp_path: Path) -> None:
    answered = [{**qa, "is_impossible": False} for qa in QAS[:2]]
    unanswerable = {"id": "x", "question": "Tall?", "answers": [], "is_impossible": True, "plausible_answers": []}
    translated = {"id": "y", "question": "Far?", "answers": [], "plausible_answers": [{"text": "Rome"}]}
    path = squad(tmp_path / "en.json", qas=[*answered, unanswerable, translated])
    rows, bad = read(kind="squad", files={"en": path})
    assert [row.item_id for row in rows] == ["a", "b"]
    assert [(row.where, row.reason) for row in bad] == [
        (f"{path}: data[0].paragraphs[0].qas[{n}]", UNANSWERABLE) for n in (2, 3)
    ]
    tree = {"version": "v2.0", "data": [{"paragraphs": [{"context": CONTEXT, "qas": QAS}]}]}
    rows, bad = read(kind="squad", files={"en": write(tmp_path / "v2.json", json.dumps(tree))})
    assert [row.item_id for row in rows] == ["a", "b", "c"]
    assert [row.reason for row in bad] == [UNANSWERABLE]


def test_squad_2_as_a_table(tmp_path: Path) -> None:
    answers = [{"text": ["Rome"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    lines = [{"id": str(n), "context": "c", "question": f"q{n}", "answers": each} for n, each in enumerate(answers)]
    columns = {"item_id": "id", "passage": "context"}
    for suffix in ("jsonl", "parquet"):
        path = tmp_path / f"rows.{suffix}"
        write(path, lines) if suffix == "jsonl" else pq.write_table(pa.Table.from_pylist(lines), path)
        rows, bad = read(kind="table", path=path, language="en", columns=columns)
        assert ([row.item_id for row in rows], [row.reason for row in bad]) == (["0"], [UNANSWERABLE])
    write(path, [{**GOOD_ROW, "is_impossible": mark} for mark in (False, "False", "True", None, 1)])
    rows, bad = read(kind="table", path=path.rename(tmp_path / "marks.jsonl"))
    assert (len(rows), len(bad)) == (3, 2)


def beir(folder: Path, suffix: str = "") -> Path:
    corpus = [{"_id": f"d{n}", "title": f"t{n}" * (n > 0), "text": f"text {n}"} for n in range(5)]
    write(folder / f"corpus.jsonl{suffix}", corpus)
    write(folder / f"queries.jsonl{suffix}", [{"_id": n, "text": f"query {n}", "metadata": {}} for n in range(3)])
    header = "query-id\tcorpus-id\tscore\n"
    write(folder / "qrels" / "train.tsv", f"{header}0\td0\t1\n0\td1\t0\n1\td4\t2\n9\td1\t1\n1\td9\t1\n")
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_beir_has_a_row_for_each_positive_judgement(tmp_path: Path, suffix: str) -> None:
    rows, bad = read(kind="beir", path=str(beir(tmp_path, suffix)), language="en")
    assert keys(rows) == [("0/d0", "en", "query 0", "text 0"), ("1/d4", "en", "query 1", "t4 text 4")]
    assert [row.passage_id for row in rows] == ["d0", "d4"]
    assert [(row.where, row.reason) for row in bad] == [
        (f"{tmp_path}/qrels/train.tsv:5", "the judged question is not among the questions"),
        (f"{tmp_path}/qrels/train.tsv:6", "the judged document is not in the corpus"),
    ]


@pytest.mark.parametrize("gone", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_an_incomplete_beir_folder_is_named(tmp_path: Path, gone: str) -> None:
    (beir(tmp_path) / gone).unlink()
    with refused("NO_FILE", gone):
        read(kind="beir", path=str(tmp_path), language="en")


def miracl(folder: Path, language: str, space: str = " ") -> dict[str, str]:
    docs = [{"docid": f"{n}#0", "title": f"t{n}", "text": f"{language} {n}"} for n in range(6)]
    write(folder / language / "docs-0.jsonl.gz", docs[:3])
    write(folder / language / "docs-1.jsonl.gz", docs[3:])
    topics = write(folder / f"topics.{language}.tsv", f"0\twhat in {language}?\n1\twhy?\n")
    judged = [("0", "Q0", "4#0", "1"), ("0", "Q0", "1#0", "0"), ("1", "Q0", "7#0", "1")]
    qrels = write(folder / f"qrels.{language}.tsv", "".join(space.join(line) + "\n" for line in judged))
    return {"topics": str(topics), "qrels": str(qrels), "corpus": str(folder / language)}


def test_miracl_languages_are_not_parallel(tmp_path: Path) -> None:
    languages = {"ar": miracl(tmp_path, "ar"), "bn": miracl(tmp_path, "bn", "\t")}
    rows, bad = read(kind="miracl", languages=languages)
    assert keys(rows) == [
        ("ar/0/4#0", "ar", "what in ar?", "t4 ar 4"),
        ("bn/0/4#0", "bn", "what in bn?", "t4 bn 4"),
    ]
    assert [row.passage_id for row in rows] == ["ar/4#0", "bn/4#0"]
    assert {row.reason for row in bad} == {"the judged document is not in the corpus"}
    assert len(bad) == 2


MMARCO_PAIRS = {
    "triples": "1\t10\t99\n1\t10\t98\n2\t11\t97\n",
    "pairs": "1\t10\n2\t11\n",
    "qrels": "1\t0\t10\t1\n2\t0\t11\t1\n2\t0\t12\t0\n",
}


@pytest.mark.parametrize("layout", MMARCO_PAIRS)
def test_mmarco_items_are_parallel(tmp_path: Path, layout: str) -> None:
    files: dict[str, dict[str, str]] = {"queries": {}, "collections": {}}
    for tag, name in (("en", "english"), ("de", "german")):
        queries = write(tmp_path / f"{name}_queries.train.tsv", f"1\tq1 {tag}\n2\tq2\twith a tab {tag}\n3\tunused\n")
        collection = write(tmp_path / f"{name}_collection.tsv", f"10\tp10 {tag}\n11\tp11 {tag}\n12\tunused\n")
        files["queries"][tag], files["collections"][tag] = str(queries), str(collection)
    triples = str(write(tmp_path / "ids.tsv", MMARCO_PAIRS[layout]))
    rows, bad = read(kind="mmarco", **files, triples=triples)
    assert keys(rows) == [
        (item, tag, question, passage)
        for tag in ("en", "de")
        for item, question, passage in [
            ("1/10", f"q1 {tag}", f"p10 {tag}"),
            ("2/11", f"q2\twith a tab {tag}", f"p11 {tag}"),
        ]
    ]
    assert not bad
    values = {"kind": "mmarco", "name": "m", "triples": triples, **files, "collections": {"en": "x"}}
    with pytest.raises(ConfigError, match="only one of them has 'de'"):
        StoreConfig.make({"path": "s", "sources": [values]}, "test")


def test_bitext_with_a_row_a_language(tmp_path: Path) -> None:
    lines = [{"lang": lang, "n": n, "sentence": f"{lang} {n}"} for lang in ("eng", "deu", "arb") for n in (0, 1)]
    path = write(tmp_path / "b.jsonl", lines)
    rows, _ = read(kind="bitext", path=path, columns={"id": "n", "language": "lang", "text": "sentence"})
    assert keys(rows) == [(str(x["n"]), x["lang"], x["sentence"], x["sentence"]) for x in lines]
    columns = {"id": "n", "language": "lang", "text": "sentence"}
    config = {"kind": "bitext", "name": "b", "path": str(path), "columns": columns}
    made = prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": [config]}, "test"))
    assert made.manifest.languages == ("ar", "de", "en")


def test_bitext_pairs_yield_the_english_once(tmp_path: Path) -> None:
    pairs = [{"id": n, "language": t, "english": f"en {n}", "text": f"{t} {n}"} for t in ("de", "zu") for n in "ab"]
    rows, _ = read(kind="bitext", path=write(tmp_path / "b.jsonl", pairs), columns={"english": "english"})
    assert [(row.item_id, row.language, row.question) for row in rows] == [
        ("a", "en", "en a"),
        ("a", "de", "de a"),
        ("b", "en", "en b"),
        ("b", "de", "de b"),
        ("a", "zu", "zu a"),
        ("b", "zu", "zu b"),
    ]
    assert all(row.question == row.passage for row in rows)


def test_hub_reads_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "data" / "train.jsonl", ROWS)
    rows, bad = read(kind="hub", path=str(tmp_path / "data"))
    assert keys(rows) == EXPECTED
    assert not bad
    write(tmp_path / "one" / "train.jsonl", [{"n": 1, "ask": "q", "tell": "p"}])
    columns = {"item_id": "n", "question": "ask", "passage": "tell"}
    rows, _ = read(kind="hub", path=str(tmp_path / "one"), language="swa", columns=columns)
    assert keys(rows) == [("1", "sw", "q", "p")]
    with refused("HUB", "one"):
        read(kind="hub", path=str(tmp_path / "one"), split="validation")
    (tmp_path / "empty").mkdir()
    with refused("HUB", "empty"):
        read(kind="hub", path=str(tmp_path / "empty"))


def test_hub_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("MISSING_PACKAGE", "pip install 'hbt-ray[hub]'"):
        read(kind="hub", path="miracl/miracl")


def test_nothing_else_needs_the_hub_library() -> None:
    code = "import sys, hbt_ray.data.prepare; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_change_of_any_file_is_noticed(tmp_path: Path) -> None:
    config = {"kind": "beir", "name": "b", "path": str(beir(tmp_path / "beir")), "language": "en"}
    store = StoreConfig.make({"path": str(tmp_path / "store"), "sources": [config], "max_rejected": 1}, "test")
    assert not prepare(store).already_existed
    assert prepare(store).already_existed
    write(tmp_path / "beir" / "qrels" / "train.tsv", "0\td0\t1\n")
    with pytest.raises(Exception, match="other settings or sources"):
        prepare(store)


REAL: dict[str, tuple[dict[str, Any], int, int]] = {
    "scifact": ({"kind": "beir", "path": "eval/beir/scifact", "language": "en"}, 919, 1),
    "scifact test": ({"kind": "beir", "path": "eval/beir/scifact", "language": "en", "split": "test"}, 339, 1),
    "ntrex": (
        {
            "kind": "bitext",
            "path": "train/bitext_ntrex128.parquet",
            "columns": {"id": "n", "language": "lang", "text": "sentence"},
        },
        255_616,
        128,
    ),
    "tico": (
        {
            "kind": "bitext",
            "path": "train/bitext_tico19.parquet",
            "columns": {"language": "lang", "text": "sentence", "english": "english"},
        },
        113_627 + 3_071,
        38,
    ),
    "docs": (
        {
            "kind": "table",
            "path": "train/docs_parallel.parquet",
            "columns": {"item_id": "id", "language": "lang", "passage": "context", "dataset": "source"},
        },
        108_142,
        41,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(shared_data: Path, name: str) -> None:
    values, num_rows, num_languages = REAL[name]
    rows, bad = read(**{**values, "path": str(shared_data / values["path"])})
    assert len(rows) == num_rows
    assert not bad
    assert len({row.language for row in rows}) == num_languages


def test_real_sentences_are_those_of_the_evaluation(shared_data: Path) -> None:
    path = shared_data / "eval" / "xquad-r" / "th.json"
    rows, bad = read(kind="squad", files={"th": path}, passage="sentence")
    tree = json.loads(path.read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in tree["data"] for paragraph in article["paragraphs"]]
    sentences = {p["context"][start:end] for p in paragraphs for start, end in p["sentence_breaks"]}
    assert len(rows) == 1_190
    assert not bad
    assert {row.passage for row in rows} <= sentences
    assert all(
        qa["answers"][0]["text"][:1] in row.passage
        for row, qa in zip(rows, (qa for paragraph in paragraphs for qa in paragraph["qas"]), strict=True)
    )
