"""Readers of BEIR and MIRACL: small files in each format, what is wrong in them, and the real data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hbt_ray.retrieval.tasks import open_task
from tests.refused import refused
from tests.retrieval.task_files import pairs, task, texts, write

# BEIR


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    write(folder / "corpus.jsonl.gz", [{"_id": "d1", "title": "Title", "text": "text"}, {"_id": "d2", "text": "two"},
                                       {"_id": "d3", "title": "", "text": "three"}])  # fmt: skip
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}", "metadata": {}} for n in range(4)])
    write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q1\td3\t1", "q2\td2\t0",
                                          "q0\td2\t1"])  # fmt: skip
    write(folder / "qrels" / "dev.tsv", ["query-id\tcorpus-id\tscore", "q3\td2\t2", "q3\td1\t0"])
    return folder


def test_beir_folder(beir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read = task(f"beir={beir}")
    assert (read.name, read.languages, read.measures) == ("tiny", ["en"], ("nDCG@10", "R@100"))
    assert texts(read.documents) == {"d1": "Title text", "d2": "two", "d3": "three"}
    assert texts(read.queries) == {"q0": "query 0", "q1": "query 1"}
    assert pairs(read) == {("q1", "d1"), ("q1", "d3"), ("q0", "d2")}
    assert read.num_dropped == 1, "q2 is judged, but nothing answers it; q3 is of another split"
    assert "1 of 3 queries have no relevant document and are left out, the first is 'q2'" in caplog.text


def test_beir_options_and_grades(beir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read = task(f"beir={beir},split=dev,language=DEU,measures=MAP@20,Recall@5")
    assert (read.name, read.languages, read.measures) == ("tiny-dev", ["de"], ("AP@20", "R@5"))
    assert pairs(read) == {("q3", "d2")}
    assert read.grades.tolist() == [[2]]
    assert "1 of 1 relevant pairs have a grade above 1; nDCG weighs documents by their grades" in caplog.text
    assert sum("grade" in record.message for record in caplog.records) == 1
    assert task(f"beir={beir},split=dev,name=other").name == "other"


BROKEN_BEIR = {
    "corpus.jsonl": '{"_id": "d1", "text": ',
    "queries.jsonl": '["q1"]',
    "qrels/test.tsv": "q1\td1",
}


@pytest.mark.parametrize("file", BROKEN_BEIR)
def test_beir_names_the_line_that_is_wrong(beir: Path, file: str) -> None:
    first = {"corpus.jsonl": {"_id": "d1", "text": "x"}, "queries.jsonl": {"_id": "q1", "text": "x"}}
    write(beir / file, [first.get(file, "query-id\tcorpus-id\tscore"), BROKEN_BEIR[file]])
    with refused("BAD_ROW", f"{file}:2: "):
        task(f"beir={beir}")


WRONG_BEIR: dict[str, tuple[str, list[Any], str, str]] = {
    "empty": ("corpus.jsonl", [], "EMPTY_FILE", "corpus.jsonl"),
    "blank": ("corpus.jsonl", [{"_id": "d1", "text": " "}, {"_id": "d2", "text": "\t"}], "EMPTY_TEXT", "2 documents"),
    "column": ("corpus.jsonl", [{"key": "d1", "text": "x"}], "BAD_ROW", "corpus.jsonl:1: no id"),
    "surrogate": ("corpus.jsonl", ['{"_id": "d1", "text": "a\\ud800"}'], "BAD_ROW", "corpus.jsonl:1: holds half"),
    "NUL": ("queries.jsonl", [{"_id": "q1", "text": "a\0b"}], "BAD_ROW", "queries.jsonl:1: holds a NUL"),
    "deep": ("queries.jsonl", ['{"_id": ' + "[" * 99_999 + "]" * 99_999 + "}"], "BAD_ROW", "queries.jsonl:1"),
    "header": ("qrels/test.tsv", ["frage\tdokument\tnote", "q1\td1\t1"], "QRELS_COLUMNS", "test.tsv:1"),
    "fraction": ("qrels/test.tsv", ["q1\td1\t0.5"], "BAD_ROW", "threshold="),
    "contradiction": ("qrels/test.tsv", ["q1\td1\t1", "q1\td1\t0"], "CONTRADICTION", "'q1 d1'"),
    "twice": ("corpus.jsonl", [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}], "CONTRADICTION", "'d1'"),
    "document": ("qrels/test.tsv", ["q1\td9\t1"], "UNKNOWN_DOCUMENTS", "'d9'"),
    "query": ("qrels/test.tsv", ["q1\td1\t1", "q9\td1\t1"], "UNKNOWN_QUERY", "'q9'"),
    "answers": ("qrels/test.tsv", ["q1\td1\t0"], "NO_RELEVANT_DOCUMENT", "1 queries"),
    "score": ("qrels/test.tsv", ["q1\td1\t1", "q1\td1\tyes"], "BAD_ROW", "test.tsv:2"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_BEIR)
def test_beir_that_contradicts_itself_is_refused(beir: Path, fault: str) -> None:
    file, lines, code, words = WRONG_BEIR[fault]
    write(beir / file, lines)
    with refused(code, words):
        task(f"beir={beir}")


PUBLISHED_QRELS: dict[str, tuple[str, list[Any]]] = {
    "BEIR": ("test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q0\td2\t2", "q2\td2\t0"]),
    "mteb": ("test.jsonl", [{"query-id": "q1", "corpus-id": "d1", "score": 1.0},
                            {"query-id": "q0", "corpus-id": "d2", "score": 2}]),
    "ir_datasets": ("test.tsv", ["query_id\tdoc_id\trelevance\titeration", "q1\td1\t1\t0", "q0\td2\t2\t0"]),
    "other order": ("test.tsv", ["score corpus-id query-id", "1 d1 q1", "2 d2 q0"]),
    "without a header": ("test.tsv", ["q1\td1\t1", "q0\td2\t2"]),
    "TREC": ("test.tsv", ["q1 0 d1 1", "q0  Q0\td2 2", "q2 0 d2 -1"]),
    "TREC with tabs": ("test.txt", ["q1\t0\td1\t1", "q0\t0\td2\t2"]),
    "bz2": ("test.tsv.bz2", ["qid\tpid\tlabel", "q1\td1\t1", "q0\td2\t2"]),
    "zst": ("test.jsonl.zst", [{"qid": "q1", "docid": "d1", "rel": 1}, {"qid": "q0", "docid": "d2", "rel": 2}]),
    "repeated": ("test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q1\td1\t1.0", "q0\td2\t2"]),
}  # fmt: skip


@pytest.mark.parametrize("form", PUBLISHED_QRELS)
def test_published_forms_of_judgements(beir: Path, form: str) -> None:
    (beir / "qrels" / "test.tsv").unlink()
    file, lines = PUBLISHED_QRELS[form]
    write(beir / "qrels" / file, lines)
    read = task(f"beir={beir}")
    assert set(map(tuple, (row.values() for row in read.qrels.to_pylist()))) == {("q1", "d1", 1), ("q0", "d2", 2)}


def test_fractions_are_judgements_with_a_threshold(beir: Path) -> None:
    write(beir / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t0.75", "q1\td2\t0.5", "q0\td2\t0.4999"])
    read = task(f"beir={beir},threshold=0.5")
    assert set(map(tuple, (row.values() for row in read.qrels.to_pylist()))) == {("q1", "d1", 1), ("q1", "d2", 1)}
    assert read.num_dropped == 1


def test_a_judged_document_that_the_corpus_lacks_is_counted(beir: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(beir / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q1\td9\t1", "q1\td8\t0"])
    with caplog.at_level(logging.WARNING):
        read = task(f"beir={beir}")
    assert (read.num_missing, read.grades.tolist(), read.relevant.tolist()) == (1, [[1, 1]], [[0, -1]])
    assert "the corpus lacks 1 of 2 documents that answer a query, the first is 'd9'" in caplog.text


def test_beir_without_a_file_or_in_another_language_is_refused(beir: Path) -> None:
    with refused("NO_FILE", "qrels/train.tsv"):
        task(f"beir={beir},split=train")
    with refused("MISSING_LANGUAGE", "'de'", "en"):
        open_task(f"beir={beir}", ["de"])
    (beir / "queries.jsonl").unlink()
    with refused("NO_FILE", "queries.jsonl"):
        task(f"beir={beir}")


def test_scifact_has_the_published_counts(shared_data: Path) -> None:
    read = task(f"beir={shared_data}/eval/beir/scifact")
    assert (read.documents.num_rows, read.queries.num_rows, read.qrels.num_rows) == (5183, 300, 339)
    assert (read.name, read.num_dropped) == ("scifact", 0)
    assert texts(read.documents)["4983"].startswith("Microstructural development of human newborn")
    assert task(f"beir={shared_data}/eval/beir/scifact,split=train").qrels.num_rows == 919


# MIRACL


def miracl_corpus(folder: Path) -> None:
    """Swahili in two files, German in one, with the same ids."""
    write(folder / "miracl-corpus-v1.0-sw" / "docs-0.jsonl.gz", [{"docid": "1#0", "title": "T", "text": "moja"}])
    more = [{"docid": "1#1", "title": "T", "text": "mbili"}, {"docid": "2#0", "title": "U", "text": "tatu"}]
    write(folder / "miracl-corpus-v1.0-sw" / "docs-1.jsonl.gz", more)
    write(folder / "miracl-corpus-v1.0-de" / "docs-0.jsonl", [{"docid": "1#0", "title": "D", "text": "eins"}])


@pytest.fixture
def miracl(tmp_path: Path) -> Path:
    topics = {"sw": ["0\tnani?", "1\tnini?"], "de": ["0\twer?\twas?"]}
    qrels = {"sw": ["0\tQ0\t1#0\t1", "0\tQ0\t1#1\t0", "1\tQ0\t1#1\t1"], "de": ["0 Q0 1#0 1", "0 Q0 7#7 0"]}
    for tag in topics:
        for kind, lines in (("topics", topics[tag]), ("qrels", qrels[tag])):
            write(tmp_path / f"miracl-v1.0-{tag}" / kind / f"{kind}.miracl-v1.0-{tag}-dev.tsv", lines)
    miracl_corpus(tmp_path)
    return tmp_path


def test_miracl_folder(miracl: Path) -> None:
    read = task(f"miracl={miracl}")
    assert (read.name, read.languages, read.measures) == ("miracl", ["de", "sw"], ("nDCG@10", "R@100"))
    assert texts(read.documents) == {
        "de_1#0": "D eins", "sw_1#0": "T moja", "sw_1#1": "T mbili", "sw_2#0": "U tatu",
    }  # fmt: skip
    assert texts(read.queries) == {"de_0": "wer?\twas?", "sw_0": "nani?", "sw_1": "nini?"}
    assert pairs(read) == {("de_0", "de_1#0"), ("sw_0", "sw_1#0"), ("sw_1", "sw_1#1")}


def test_miracl_pooled_keeps_what_was_judged_and_says_what_is_missing(
    miracl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read = task(f"miracl={miracl},pooled=true")
    assert read.name == "miracl-pooled"
    assert sorted(texts(read.documents)) == ["de_1#0", "sw_1#0", "sw_1#1"]
    assert "1 of the 2 judged documents in de are not in its corpus" in caplog.text
    assert "documents in sw" not in caplog.text


def test_miracl_corpora_may_be_elsewhere(miracl: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("corpora")
    for folder in miracl.glob("miracl-corpus-*"):
        folder.rename(elsewhere / folder.name)
    read = task(f"miracl={miracl},corpus={elsewhere},languages=sw")
    assert (read.documents.num_rows, pairs(read)) == (3, {("sw_0", "sw_1#0"), ("sw_1", "sw_1#1")})
    with refused("NO_CORPUS", "miracl-corpus-v1.0-de", "corpus="):
        task(f"miracl={miracl}")
    with refused("MISSING_LANGUAGE", "'fr'", "de, sw"):
        open_task(f"miracl={miracl},corpus={elsewhere}", ["fr"])
    for part in ("topics", "qrels"):
        folder = miracl / "miracl-v1.0-sw" / part
        (folder / f"{part}.miracl-v1.0-sw-dev.tsv").rename(folder / f"{part}.miracl-v1.0-sw-train.tsv")
    assert task(f"miracl={miracl},corpus={elsewhere},split=train").name == "miracl-train"
    (miracl / "miracl-v1.0-sw" / "qrels" / "qrels.miracl-v1.0-sw-train.tsv").unlink()
    with refused("NO_FILE", "qrels.miracl-v1.0-sw-train.tsv"):
        task(f"miracl={miracl},corpus={elsewhere},split=train")


def test_miracl_names_what_is_wrong(miracl: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with refused("NO_FILE", "testA.tsv"):
        task(f"miracl={miracl},split=testA")
    with refused("NO_FILE", "topics"):
        task(f"miracl={tmp_path_factory.mktemp('empty')}")
    with refused("NO_FILE", "nowhere"):
        task("miracl=nowhere")
    write(miracl / "miracl-corpus-v1.0-sw" / "docs-1.jsonl.gz", [{"docid": "1#1", "text": "x"}, '{"docid"'])
    with refused("BAD_ROW", "docs-1.jsonl.gz:2: "):
        task(f"miracl={miracl}")
    write(miracl / "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv", ["0\tQ0\t1#0"])
    with refused("QRELS_COLUMNS", "dev.tsv:1: "):
        task(f"miracl={miracl}")


def test_miracl_files_may_be_packed_and_each_language_is_there_once(miracl: Path) -> None:
    plain = task(f"miracl={miracl}")
    for file in [*miracl.rglob("*.tsv"), *miracl.rglob("*.jsonl")]:
        write(file.with_name(f"{file.name}.zst"), file.read_text(encoding="utf-8").splitlines())
        file.unlink()
    assert task(f"miracl={miracl}").fingerprint == plain.fingerprint
    write(miracl / "miracl-v1.0-deu/topics/topics.miracl-v1.0-deu-dev.tsv", ["0\twer?"])
    write(miracl / "miracl-v1.0-deu/qrels/qrels.miracl-v1.0-deu-dev.tsv", ["0 Q0 1#0 1"])
    with refused("LANGUAGE_TWICE"):
        task(f"miracl={miracl}")


def test_a_corpus_is_read_in_batches(miracl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbt_ray.retrieval.tasks.task._BATCH_ROWS", 2)
    read = task(f"miracl={miracl},languages=sw")
    assert [len(chunk) for chunk in read.documents["text"].chunks] == [2, 1]
    assert read.relevant.tolist() == [[0], [1]]


def test_miracl_topics_and_qrels_agree(shared_data: Path, tmp_path: Path) -> None:
    """The corpora are not there, so each judged passage gets its id for a text."""
    topics, qrels = (
        pq.read_table(shared_data / f"eval/miracl/{part}.parquet", filters=[("lang", "=", "sw"), ("split", "=", "dev")])
        for part in ("topics", "qrels")
    )
    folder, name = tmp_path / "miracl-v1.0-sw", "miracl-v1.0-sw-dev.tsv"
    write(folder / "topics" / f"topics.{name}", (f"{row['qid']}\t{row['query']}" for row in topics.to_pylist()))
    judged = (f"{row['qid']} Q0 {row['docid']} {row['relevance']}" for row in qrels.to_pylist())
    write(folder / "qrels" / f"qrels.{name}", judged)
    passages = sorted(set(qrels["docid"].to_pylist()))
    write(tmp_path / "miracl-corpus-v1.0-sw" / "docs-0.jsonl.gz", [{"docid": d, "text": d} for d in passages])
    read = task(f"miracl={tmp_path},pooled=true")
    assert (read.queries.num_rows, read.num_dropped) == (482, 0)
    assert (read.documents.num_rows, qrels.num_rows) == (len(passages), 5092)


"""Entity → language, description, and the sentence that counts."""
