"""A saved index answers as a flat one does, says no to strangers, and can be asked by hand."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hbt_ray.errors import TaskError
from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import ModelConfig
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.saved_index import SavedIndex, read_documents, save_index
from hbt_ray.storage import write_checksums
from tests.retrieval.corpora import clustered, corpus, flat_ranking, vectors

ENCODER = EncoderConfig(model="somewhere")


def documents_of(ids: list[str], languages: list[str]) -> pa.Table:
    return pa.table({"doc_id": ids, "language": languages, "text": [f"text of {one}" for one in ids]})


@pytest.mark.parametrize("kind", ["ties", "float"])
def test_a_saved_index_answers_as_a_flat_one(tmp_path: Path, kind: str) -> None:
    ids, languages, documents = corpus(kind, 200, 3)
    queries = vectors(kind, 20, 2)
    save_index(tmp_path / "index", documents_of(ids, languages), documents, ENCODER, "f1", IndexConfig())
    index = SavedIndex.load(tmp_path / "index")
    rows, scores = flat_ranking(ids, queries, documents)
    for own, wanted, theirs in zip(index.search(queries, "f1", 30), rows, scores, strict=True):
        assert [answer.doc_id for answer in own] == [ids[row] for row in wanted[:30]]
        assert [answer.score for answer in own] == theirs[:30].tolist()
        assert all(answer.text == f"text of {answer.doc_id}" for answer in own)
    some = index.search(queries[:1], "f1", 500, ["de"])[0]
    assert [answer.doc_id for answer in some] == [ids[row] for row in rows[0] if languages[row] == "de"]


def test_an_approximate_index_is_saved_with_its_vectors(tmp_path: Path) -> None:
    ids = [str(n) for n in range(12_000)]
    settings = IndexConfig(factory="IVF64,SQ8", parameters="nprobe=32")
    documents = clustered(12_000, 1)
    save_index(tmp_path / "index", documents_of(ids, ["en"] * 12_000), documents, ENCODER, "f1", settings)
    assert (tmp_path / "index" / "en.faiss").stat().st_size < documents.nbytes / 2
    found = SavedIndex.load(tmp_path / "index").search(documents[:20], "f1", 3)
    assert [answers[0].doc_id for answers in found] == ids[:20]
    assert [answers[0].score for answers in found] == pytest.approx([1.0] * 20, abs=1e-6)


def test_other_encoders_languages_and_folders_are_refused(tmp_path: Path) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    index = save_index(tmp_path / "index", documents_of(ids, languages), documents, ENCODER, "f1", IndexConfig())
    for arguments, code in (
        ((documents, "f2", 3), "OTHER_ENCODER"),
        ((documents[:, 1:], "f1", 3), "INVALID_VECTORS"),
        ((documents, "f1", 0), "INVALID_SEARCH"),
        ((documents, "f1", 3, ["th"]), "INVALID_SEARCH"),
    ):
        with pytest.raises(TaskError) as error:
            index.search(*arguments)
        assert error.value.code == code
    assert len(index.search(documents[:1], "f1", 99)[0]) == 20
    with pytest.raises(TaskError) as error:
        SavedIndex.load(tmp_path)
    assert error.value.code == "INVALID_INDEX"
    manifest = tmp_path / "index" / "index.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 2}))
    write_checksums(manifest.parent)
    with pytest.raises(TaskError) as error:
        SavedIndex.load(tmp_path / "index")
    assert error.value.code == "INVALID_INDEX"


def test_documents_are_read_and_what_is_wrong_with_them_is_named(tmp_path: Path) -> None:
    rows = [{"doc_id": "a", "language": "DE", "text": "eins"}, {"doc_id": "b", "language": "deu", "text": "zwei"}]
    lines = tmp_path / "documents.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    table = read_documents(lines)
    assert table["language"].to_pylist() == ["de", "de"]
    pq.write_table(table, tmp_path / "documents.parquet")
    assert read_documents(tmp_path / "documents.parquet", ["de"]).equals(table)
    for broken, match in (
        ([{"doc_id": "a", "text": "x"}], "no column 'language'"),
        ([*rows, {"doc_id": "c", "language": "de", "text": "  "}], "documents.jsonl:3: column 'text' is empty"),
        ([*rows, rows[0]], "occur twice"),
        ([{**rows[0], "language": "german"}], "'german' is no BCP-47"),
    ):
        lines.write_text("\n".join(map(json.dumps, broken)))
        with pytest.raises(TaskError, match=match):
            read_documents(lines)
    lines.write_text("{")
    with pytest.raises(TaskError, match="no valid JSON"):
        read_documents(lines)
    with pytest.raises(TaskError, match="no such file"):
        read_documents(tmp_path / "nowhere.jsonl")
    with pytest.raises(TaskError) as error:
        read_documents(tmp_path / "documents.parquet", ["fr"])
    assert error.value.code == "INVALID_CORPUS"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_documents_are_what_they_are_stored_as(tmp_path: Path, suffix: str) -> None:
    """Ids and texts that look like dates, numbers or nulls stay the texts that they are."""
    odd = ["2020-01-01", "2020-01-01T00:00:00Z", "007", "1e5", "12.0", "NaN", "null", "true", "1,000", "-"]
    rows = [{"doc_id": each, "language": "eng_Latn", "text": each} for each in odd]
    path = tmp_path / f"documents{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    else:
        text = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    table = read_documents(path, ["en-Latn"])
    assert table.to_pylist() == [{"doc_id": each, "language": "en", "text": each} for each in odd]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", 5),
        ("text", ["a"]),
        ("doc_id", 1.5),
        ("doc_id", True),
        ("text", "a\0b"),
        ("text", "\ud800"),
        ("language", 1),
    ],
)
def test_documents_of_other_types_are_refused(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "documents.jsonl"
    rows = [{"doc_id": "a", "language": "de", "text": "x"}, {"doc_id": 7, "language": "de", "text": "y", column: value}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TaskError, match=r"documents\.jsonl:2: .*holds (a|half)"):
        read_documents(path)


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session", "encode_here")
def test_an_index_is_built_and_searched_by_commands(tmp_path: Path) -> None:
    from hbt_ray.cli.app import app

    model, other = tmp_path / "model", tmp_path / "other"
    texts = [f"about thing number {n} " + "more " * (n % 5) for n in range(40)]
    for folder, width in ((model, 32), (other, 16)):
        config = ModelConfig(layers=1, width=width, heads=2, vocabulary=200, max_question_length=16)
        build_encoder(config, texts).save_pretrained(str(folder))
    rows = [{"doc_id": f"d{n}", "language": "en" if n % 2 else "de", "text": text} for n, text in enumerate(texts)]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run, index = CliRunner().invoke, str(tmp_path / "index")
    alike = ['encoder.question_prompt=""', 'encoder.passage_prompt=""']  # So that equal texts get equal vectors.
    documents = str(tmp_path / "documents.jsonl")
    built = run(app, ["index", "build", str(model), index, "--documents", documents, *alike, "--json"])
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["languages"] == {"de": 20, "en": 20}
    asked = run(app, ["search", index, texts[7], texts[8], "--k", "3", "--json"])
    answers = json.loads(asked.stdout)["answers"]
    assert [answers[text][0]["doc_id"] for text in (texts[7], texts[8])] == ["d7", "d8"]
    assert [len(found) for found in answers.values()] == [3, 3]
    assert "d7" in run(app, ["search", index, texts[7], "--languages", "en"]).stdout
    refused = run(app, ["search", index, texts[7], "--model", str(other)])
    assert isinstance(refused.exception, TaskError)
    assert refused.exception.code == "OTHER_ENCODER"
