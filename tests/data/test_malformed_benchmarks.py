"""Malformed SQuAD files and judged collections: a bad node or line costs itself only, with its place and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.malformed import (
    JSON_DOCS,
    JUDGED,
    judged_source,
    prepared,
)

SQUAD_NODES: dict[str, tuple[Any, str]] = {
    "an article that is a list": ([], "expected an object with 'paragraphs'"),
    "paragraphs that are text": ({"paragraphs": "none"}, "expected an object with 'paragraphs'"),
    "a paragraph that is null": ({"paragraphs": [None]}, "expected an object with 'context'"),
    "a context that is a number": ({"paragraphs": [{"context": 1, "qas": []}]}, "expected an object with 'context'"),
    "no questions": ({"paragraphs": [{"context": "c"}]}, "expected an object with 'qas'"),
    "a question that is text": ({"paragraphs": [{"context": "c", "qas": ["q"]}]}, "expected an object with 'id'"),
    "an id that is a number": ({"paragraphs": [{"context": "c", "qas": [{"id": 1}]}]}, "expected an object with 'id'"),
    "a surrogate": (
        {"paragraphs": [{"context": "\ud800", "qas": [{"id": "x", "question": "q"}]}]},
        "passage holds half a surrogate pair",
    ),
}


@pytest.mark.parametrize("unit", ["paragraph", "sentence"])
@pytest.mark.parametrize("case", SQUAD_NODES)
def test_squad_nodes_of_another_shape(tmp_path: Path, unit: str, case: str) -> None:
    node, reason = SQUAD_NODES[case]
    good = {"paragraphs": [{"context": "c", "qas": [{"id": "g", "question": "q"}]}]}
    (tmp_path / "de.json").write_text(json.dumps({"data": [node, good]}))
    made = prepared(tmp_path, kind="squad", files={"de": str(tmp_path / "de.json")}, passage=unit)
    assert (made.num_read, made.num_kept) == (2, 1)
    assert next(iter(made.rejected)).startswith(reason)


SPANS = [None, "0-3", 7, [], [[0]], [[0, "3"]], [[-1, 3]], [[0, 99]], [[2, 2]], [[3, 1]], [None], [{"start": 0}]]


@pytest.mark.parametrize("spans", SPANS, ids=str)
@pytest.mark.parametrize("answers", [None, [], [7], [{}], [{"answer_start": "0"}], [{"answer_start": True}]], ids=str)
def test_sentences_that_cannot_be_cut(tmp_path: Path, spans: Any, answers: Any) -> None:
    qa = {"id": "x", "question": "q", "answers": answers}
    tree = {"data": [{"paragraphs": [{"context": "c c", "qas": [qa], "sentence_breaks": spans}]}]}
    (tmp_path / "de.json").write_text(json.dumps(tree))
    made = prepared(tmp_path, kind="squad", files={"de": str(tmp_path / "de.json")}, passage="sentence")
    assert (made.num_read, made.num_kept) == (1, 1 if spans is None else 0)


ODD_LINES = {
    "one word": b"q",
    "too many columns": b"x\td\t1\t2\t3\t4",
    "no number": b"x\tQ0\td\tyes",
    "no UTF-8": b"\xff\xfe\xfd",
    "broken JSON": b'{"_id": "q", ',
    "text is a number": b'{"_id": "d", "docid": "d", "text": 7}',
    "NUL": b"q\0\t\0",
    "the same document again": JSON_DOCS.strip(),
}


@pytest.mark.parametrize("kind", JUDGED)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["judgements", "corpus", "questions"])
@pytest.mark.parametrize("case", ODD_LINES)
def test_bad_lines_of_judged_collections(tmp_path: Path, kind: str, which: int, case: str) -> None:
    contents = list(JUDGED[kind])
    contents[which] += ODD_LINES[case] + b"\n"
    made = prepared(tmp_path, **judged_source(tmp_path, kind, *contents))
    assert made.num_kept == 1
    if case in ("one word", "no UTF-8"):
        assert made.num_read == 2


@pytest.mark.parametrize("kind", ["beir", "miracl"])
def test_a_judged_document_with_two_texts_is_refused(tmp_path: Path, kind: str) -> None:
    judged, corpus, questions = JUDGED[kind]
    judged += judged.splitlines()[-1].replace(b"d", b"e") + b"\n"
    corpus += corpus.replace(b'"d"', b'"e"') + b'{"_id": "d", "docid": "d", "text": "another"}\n'
    made = prepared(tmp_path, **judged_source(tmp_path, kind, judged, corpus, questions))
    assert (made.num_read, made.num_kept) == (3, 1)
    assert set(made.rejected) == {
        "id stands twice in the corpus, with different texts",
        "the judged question or document stands twice, with different texts",
    }


@pytest.mark.parametrize("kind", ["beir", "miracl"])
def test_judgements_that_are_repeated_contradict_or_are_fractions(tmp_path: Path, kind: str) -> None:
    judged, corpus, questions = JUDGED[kind]
    line = judged.splitlines()[-1]
    for name in (b"e", b"f"):
        corpus += corpus.splitlines()[0].replace(b'"d"', b'"%s"' % name) + b"\n"
    lines = [judged.rstrip(), line, line.replace(b"d", b"e"), line.replace(b"d", b"e")[:-1] + b"0",
             line.replace(b"d", b"f")[:-1] + b"0.5"]  # fmt: skip
    made = prepared(tmp_path, **judged_source(tmp_path, kind, b"\n".join(lines), corpus, questions))
    assert (made.num_read, made.num_kept) == (4, 1)
    with_threshold = judged_source(tmp_path, kind, b"\n".join(lines), corpus, questions) | {"threshold": 0.4}
    assert prepared(tmp_path / "more", **with_threshold).num_kept == 2
    assert sorted(made.rejected) == [
        "relevance is a fraction; state from which on a document is right: threshold=…",
        "the judgement stands twice",
        "the same question and document are judged twice, and not alike",
    ]


@pytest.mark.parametrize("kind", JUDGED)
def test_questions_and_documents_that_are_not_there(tmp_path: Path, kind: str) -> None:
    judged, corpus, questions = JUDGED[kind]
    odd = judged.splitlines()[-1]
    lines = b"\n".join([judged.rstrip(), odd.replace(b"q", b"q9", 1), odd.replace(b"d", b"d9", 1)])
    made = prepared(tmp_path, **judged_source(tmp_path, kind, lines, corpus, questions))
    assert (made.num_read, made.num_kept) == (3, 1)
    assert len(made.rejected) == 2
