from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hbt_ray.data.formats.source_row import BadRowError, SourceRow
from hbt_ray.retrieval.tasks import Task, parallel_task, read_lareqa
from hbt_ray.retrieval.tasks.bitext_task import multiway
from tests.refused import refused

XQUAD_R = {
    "ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244,
    "ru": 1219, "th": 852, "tr": 1167, "vi": 1209, "zh": 1196,
}  # fmt: skip


def paragraph(context: str, breaks: list[list[int]], *questions: tuple[str, int]) -> dict[str, Any]:
    """Questions are (id, answer_start)."""
    qas = [{"id": q, "question": f"{q}?", "answers": [{"answer_start": start, "text": "x"}]} for q, start in questions]
    return {"context": context, "sentence_breaks": breaks, "qas": qas}


def write(folder: Path, language: str, *paragraphs: Any, articles: int = 1) -> Path:
    """Paragraphs go into `articles` articles, one after the other."""
    parts = np.array_split(np.arange(len(paragraphs)), articles)
    data = [{"title": "t", "paragraphs": [paragraphs[i] for i in part]} for part in parts]
    path = folder / f"{language}.json"
    path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return path


def pairs(task: Task) -> set[tuple[str, str]]:
    return set(zip(task.qrels["query_id"].to_pylist(), task.qrels["doc_id"].to_pylist(), strict=True))


def tiny(**changes: Any) -> Task:
    tables: dict[str, Any] = {
        "documents": [("d1", "de", "eins"), ("d2", "en", "two")],
        "queries": [("q1", "de", "eins?")],
        "qrels": [("q1", "d1")],
        **changes,
    }
    return Task.from_rows("tiny", **tables)


def test_xquad_r_has_the_published_counts(shared_data: Path) -> None:
    task = read_lareqa(shared_data / "eval/xquad-r", "xquad-r")
    languages = task.documents["language"].to_pylist()
    assert {language: languages.count(language) for language in task.languages} == XQUAD_R
    assert (task.documents.num_rows, task.queries.num_rows, task.num_dropped) == (13_014, 13_090, 0)
    assert task.relevant.shape == (13_090, 11)
    assert task.relevant.min() >= 0
    found = np.asarray(languages)[task.relevant]
    assert (np.sort(found, axis=1) == sorted(XQUAD_R)).all(), "a query has not one answer in each language"


def test_xquad_r_answers_contain_the_gold_text(shared_data: Path) -> None:
    task = read_lareqa(shared_data / "eval/xquad-r", "xquad-r", languages=["en"])
    texts = dict(zip(task.documents["doc_id"].to_pylist(), task.documents["text"].to_pylist(), strict=True))
    content = json.loads((shared_data / "eval/xquad-r/en.json").read_text(encoding="utf-8"))
    gold = {
        f"en_{q['id']}": q["answers"][0]["text"] for a in content["data"] for p in a["paragraphs"] for q in p["qas"]
    }
    missing = [query for query, document in pairs(task) if gold[query] not in texts[document]]
    assert len(missing) == 3, "three answers of the English file run over the end of their sentence, and no others"


def test_lareqa_ids_texts_and_parallel_answers(tmp_path: Path) -> None:
    write(tmp_path, "de", paragraph("Ja. Nein.", [[0, 3], [4, 9]], ("a", 4)), paragraph("Gut.", [[0, 4]], ("b", 3)),
          articles=2)  # fmt: skip
    write(tmp_path, "zh_hant", paragraph("是。", [[0, 2]]), paragraph("好。壞。", [[0, 2], [2, 4]], ("a", 2)))
    task = read_lareqa(tmp_path, "small")
    assert task.documents.to_pylist() == [
        {"doc_id": "de_0_0", "language": "de", "text": "Ja."},
        {"doc_id": "de_0_1", "language": "de", "text": "Nein."},
        {"doc_id": "de_1_0", "language": "de", "text": "Gut."},
        {"doc_id": "zh-Hant_0_0", "language": "zh-Hant", "text": "是。"},
        {"doc_id": "zh-Hant_1_0", "language": "zh-Hant", "text": "好。"},
        {"doc_id": "zh-Hant_1_1", "language": "zh-Hant", "text": "壞。"},
    ]
    assert task.queries["query_id"].to_pylist() == ["de_a", "de_b", "zh-Hant_a"]
    assert pairs(task) == {
        ("de_a", "de_0_1"), ("de_a", "zh-Hant_1_1"), ("zh-Hant_a", "de_0_1"), ("zh-Hant_a", "zh-Hant_1_1"),
        ("de_b", "de_1_0"),
    }  # fmt: skip
    assert task.relevant.tolist() == [[1, 5], [2, -1], [1, 5]]


def test_lareqa_subset_of_languages_leaves_the_others_out_everywhere(tmp_path: Path) -> None:
    for language in ("de", "en", "th"):
        write(tmp_path, language, paragraph("Ja.", [[0, 3]], ("a", 0)))
    task = read_lareqa(tmp_path, "small", languages=["th", "DE"])
    assert task.languages == ["de", "th"]
    assert pairs(task) == {("de_a", "de_0_0"), ("de_a", "th_0_0"), ("th_a", "de_0_0"), ("th_a", "th_0_0")}


GOOD = paragraph("Ja.", [[0, 3]], ("a", 0))
BROKEN = {
    "sentences": ({"context": "Ja.", "qas": []}, "paragraphs[0]"),
    "spans": ({**GOOD, "sentence_breaks": {}}, "paragraphs[0]"),
    "context": ({**GOOD, "context": 3}, "paragraphs[0]"),
    "outside": (paragraph("Ja. ", [[0, 3]], ("a", 3)), "paragraphs[0].qas[0]"),
    "span": (paragraph("Ja.", [[0, 9]], ("a", 0)), "paragraphs[0].sentence_breaks[0]"),
    "reversed": (paragraph("Ja.", [[2, 2]], ("a", 0)), "paragraphs[0].sentence_breaks[0]"),
    "answers": ({**GOOD, "qas": [{"id": "a", "question": "?", "answers": []}]}, "paragraphs[0].qas[0]"),
    "impossible": ({**GOOD, "qas": [{**GOOD["qas"][0], "is_impossible": True}]}, "paragraphs[0].qas[0]"),
    "twice": (paragraph("Ja.", [[0, 3]], ("a", 0), ("a", 1)), "paragraphs[0].qas[1]"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_lareqa_names_the_place_of_what_is_wrong(tmp_path: Path, kind: str) -> None:
    broken, place = BROKEN[kind]
    path = write(tmp_path, "de", broken)
    with pytest.raises(BadRowError) as caught:
        read_lareqa(tmp_path, "small")
    assert caught.value.where == f"{path}: data[0].{place}"


def test_lareqa_refuses_folders_and_files_that_are_none(tmp_path: Path) -> None:
    with refused("NO_FILE", "absent"):
        read_lareqa(tmp_path / "absent", "small")
    with refused("NO_FILE", "*.json"):
        read_lareqa(tmp_path, "small")
    write(tmp_path, "de", GOOD)
    with refused("MISSING_LANGUAGE", "'en'", "de"):
        read_lareqa(tmp_path, "small", languages=["en"])
    (tmp_path / "en.json").write_text('{"data": [')
    with refused("INVALID_JSON", "en.json"):
        read_lareqa(tmp_path, "small")
    (tmp_path / "en.json").write_text('{"data": []}')
    with refused("NO_PARAGRAPHS", "en.json"):
        read_lareqa(tmp_path, "small")
    (tmp_path / "en.json").rename(tmp_path / "english.json")
    with refused("INVALID_LANGUAGE", "'english'"):
        read_lareqa(tmp_path, "small")


def test_parallel_task_shares_passages_over_items_and_languages() -> None:
    rows = [
        SourceRow("i1", "de", "f1", "P", passage_id="p"),
        SourceRow("i1", "en", "q1", "P (en)", passage_id="p"),
        SourceRow("i2", "de", "f2", "P", passage_id="p"),
        SourceRow("i3", "en", "q3", "own"),
    ]
    task = parallel_task("parallel", iter(rows))
    assert task.documents["doc_id"].to_pylist() == ["de_p", "en_p", "en_i3"]
    assert task.queries["text"].to_pylist() == ["f1", "q1", "f2", "q3"]
    assert pairs(task) == {
        ("de_i1", "de_p"), ("de_i1", "en_p"), ("en_i1", "de_p"), ("en_i1", "en_p"), ("de_i2", "de_p"),
        ("de_i2", "en_p"), ("en_i3", "en_i3"),
    }  # fmt: skip


def test_parallel_task_refuses_one_passage_with_two_texts_and_items_that_occur_twice() -> None:
    first = SourceRow("i1", "de", "f", "P", passage_id="p", where="a.jsonl:1")
    with refused("CONTRADICTION", "'p'", "'de'", "a.jsonl:9"):
        parallel_task("parallel", [first, SourceRow("i2", "de", "f", "Q", passage_id="p", where="a.jsonl:9")])
    with refused("CONTRADICTION"):
        parallel_task("parallel", [first, replace(first, question="g")])
    with refused("EMPTY_CORPUS"):
        parallel_task("parallel", [])


def test_queries_without_answers_are_dropped_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    queries = [("q0", "de", "?"), ("q1", "de", "?"), ("q2", "en", "?")]
    with caplog.at_level(logging.WARNING):
        task = tiny(queries=queries, qrels=[("q1", "d2")])
    assert (task.queries["query_id"].to_pylist(), task.num_dropped) == (["q1"], 2)
    assert "2 of 3 queries have no relevant document and are left out, the first is 'q0'" in caplog.text
    assert task.relevant.tolist() == [[1]]


INVALID: dict[str, tuple[dict[str, Any], str, str]] = {
    "no documents": ({"documents": [], "qrels": []}, "EMPTY_CORPUS", ""),
    "a document with two texts": (
        {"documents": [("d1", "de", "a"), ("d1", "en", "b"), ("d2", "en", "c")]}, "CONTRADICTION", "'d1'"),
    "a query in two languages": ({"queries": [("q1", "de", "a"), ("q1", "en", "a")]}, "CONTRADICTION", "'q1'"),
    "a pair with two grades": ({"qrels": [("q1", "d1", 1), ("q1", "d1", 0)]}, "CONTRADICTION", "'q1 d1'"),
    "an unknown query": ({"qrels": [("q1", "d1"), ("q9", "d1")]}, "UNKNOWN_QUERY", "'q9'"),
    "unknown documents": ({"qrels": [("q1", "d9")]}, "UNKNOWN_DOCUMENTS", "'d9'"),
    "no judgement": ({"qrels": []}, "NO_RELEVANT_DOCUMENT", "1 queries"),
    "no query": ({"queries": [], "qrels": []}, "NO_RELEVANT_DOCUMENT", "0 queries"),
    "a tag in capitals": ({"queries": [("q1", "DE", "?")]}, "INVALID_LANGUAGE", "'DE' as 'de'"),
    "a language by name": ({"queries": [("q1", "german", "?")]}, "INVALID_LANGUAGE", "'german'"),
    "a null": ({"documents": [("d1", "de", None)]}, "NULL_VALUE", "documents.text"),
    "empty documents": ({"documents": [("d1", "de", ""), ("d2", "en", " \t\u3000")]}, "EMPTY_TEXT", "2 documents"),
    "empty queries": ({"queries": [("q1", "de", "\n")]}, "EMPTY_TEXT", "1 queries"),
    "a NUL": ({"documents": [("d1", "de", "a\0"), ("d2", "en", "b")]}, "NUL", "documents.text of 'd1'"),
    "a surrogate": ({"queries": [("q1", "de", "?"), ("q\ud800", "de", "?")]}, "BAD_ROW", r"query_id 'q\ud800'"),
    "a number for a text": ({"documents": [("d1", "de", 7)]}, "BAD_ROW", "doc_id 'd1'"),
    "a measure of scores": ({"measures": ("AP", "P@5")}, "UNKNOWN_MEASURE", "'P@5'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", INVALID)
def test_invalid_tasks_are_refused(fault: str) -> None:
    assert tiny().num_dropped == 0, "the unchanged task must be valid"
    changes, code, words = INVALID[fault]
    with refused(code, "task tiny: ", words):
        tiny(**changes)


def test_empty_texts_among_others_stay_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        task = tiny(documents=[("d1", "de", "eins"), ("d2", "en", " "), ("d3", "en", "")])
    assert task.documents.num_rows == 3
    assert "2 of 3 documents are empty or white space, the first is 'd2'" in caplog.text


def test_a_table_without_a_column_is_refused() -> None:
    task = tiny()
    with refused("COLUMNS", "documents", "text"):
        Task("tiny", task.documents.drop_columns("text"), task.queries, task.qrels)
    lists = pa.table({"query_id": ["q1"], "language": ["de"], "text": [["a"]]})
    with refused("COLUMNS", "queries"):
        Task("tiny", task.documents, lists, task.qrels)


def test_rows_that_stand_twice_are_read_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        task = tiny(
            documents=[("d1", "de", "eins"), ("d2", "en", "zwei"), ("d1", "de", "eins")],
            queries=[("q1", "de", "?"), ("q1", "de", "?")],
            qrels=[("q1", "d1"), ("q1", "d1"), ("q1", "d1")],
        )
    assert (task.documents.num_rows, task.queries.num_rows, task.qrels.num_rows) == (2, 1, 1)
    for words in ("1 rows of documents are repeated", "1 rows of queries are repeated", "2 rows of qrels are repeated"):
        assert words in caplog.text


def test_right_documents_that_the_corpus_lacks_are_counted_and_stay(caplog: pytest.LogCaptureFixture) -> None:
    queries = [("q1", "de", "?"), ("q2", "en", "?")]
    with caplog.at_level(logging.WARNING):
        task = tiny(queries=queries, qrels=[("q1", "d9", 3), ("q1", "d2", 1), ("q1", "d1", 2), ("q2", "d8")])
    assert (task.num_missing, task.num_dropped) == (2, 0)
    assert task.relevant.tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert task.grades.tolist() == [[2, 1, 3], [1, 0, 0]]
    assert "the corpus lacks 2 of 4 documents that answer a query, the first is 'd9'" in caplog.text


def test_the_document_that_a_query_is_itself_is_known_unless_it_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    queries = [("d2", "en", "?"), ("d1", "de", "?"), ("q", "de", "?")]
    qrels = [("d2", "d1"), ("d1", "d1"), ("q", "d1")]
    with caplog.at_level(logging.WARNING):
        task = tiny(queries=queries, qrels=qrels)
    assert (task.own_documents.tolist(), task.num_identical_ids) == ([1, -1, -1], 1)
    assert "1 of 3 queries have the id of a document" in caplog.text
    kept = Task("tiny", task.documents, task.queries, task.qrels, ignore_identical_ids=False)
    assert (kept.own_documents.tolist(), kept.num_identical_ids) == ([-1, -1, -1], 0)
    assert kept.fingerprint != task.fingerprint, "the same data under another rule gives other figures"


def test_the_fingerprint_is_that_of_the_data_in_any_order() -> None:
    queries = [("q1", "de", "?"), ("q2", "en", "!")]
    documents = [("d1", "de", "eins"), ("d2", "en", "two")]
    qrels = [("q1", "d1", 1), ("q2", "d2", 2), ("q2", "d1", 0)]
    same = {
        tiny(documents=documents[::order], queries=queries[::order], qrels=judged[::order]).fingerprint
        for order in (1, -1) for judged in (qrels, qrels[:2])
    }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"documents": [("d1", "de", "eins."), documents[1]]},
        {"documents": [("d1", "en", "eins"), documents[1]]},
        {"documents": [*documents, ("d3", "en", "three")]},
        {"queries": [("q1", "de", "??"), queries[1]]},
        {"qrels": [("q1", "d1", 2), *qrels[1:]]},
        {"qrels": [("q1", "d2", 1), *qrels[1:]]},
        {"qrels": [*qrels[:2], ("q2", "d1", 1)]},
    ]
    others = [
        tiny(**{"documents": documents, "queries": queries, "qrels": qrels, **change}).fingerprint for change in changes
    ]
    assert len({*same, *others}) == 1 + len(changes)
    left = multiway("m", {"de": ["ab", "c"], "en": ["x", "y"]}, None).fingerprint
    assert left != multiway("m", {"de": ["a", "bc"], "en": ["x", "y"]}, None).fingerprint
    assert left != multiway("m", {"de": ["ab", "c"], "en": ["y", "x"]}, None).fingerprint
