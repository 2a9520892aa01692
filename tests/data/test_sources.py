"""Sources: each published format is read as it is published; what its readers yield, row by row."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from hbt_ray.data.formats.files import file_states
from hbt_ray.data.formats.source_row import FLOAT_IDS, BadRow, SourceRow
from hbt_ray.data.formats.training_pairs import UNANSWERABLE
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.prepare.config import AnySource
from hbt_ray.data.sources.file_sources import Source, TableSource
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError, InputError, LocationError, SourceError
from tests.refused import refused

ROWS = [
    {"item_id": f"i{n}", "language": language, "question": f"q{n} {language}", "passage": f"p{n} {language}"}
    for n in range(4)
    for language in ("de", "en")
]


def source(**values: Any) -> Source:
    return TypeAdapter[Source](AnySource).validate_python({"name": "s", **values})


def write(path: Path, content: str | list[Any]) -> Path:
    """Text, or JSON lines; packed where the name ends in .gz."""
    text = content if isinstance(content, str) else "".join(json.dumps(value) + "\n" for value in content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(**values: Any) -> tuple[list[SourceRow], list[BadRow]]:
    rows = list(source(**values).rows())
    return [row for row in rows if isinstance(row, SourceRow)], [row for row in rows if isinstance(row, BadRow)]


def keys(rows: list[SourceRow]) -> list[tuple[str, str, str, str]]:
    return [(row.item_id, row.language, row.question, row.passage) for row in rows]


GOOD_ROW = {"item_id": "g", "language": "de", "question": "q", "passage": "p"}
EXPECTED = [(row["item_id"], row["language"], row["question"], row["passage"]) for row in ROWS]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
@pytest.mark.parametrize("as_uri", [False, True])
def test_tables_plain_packed_and_remote(tmp_path: Path, name: str, as_uri: bool) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        write(path, ROWS)
    location = path.as_uri() if as_uri else str(path)
    rows, bad = read(kind="table", path=location)
    assert keys(rows) == EXPECTED
    assert not bad
    assert rows[0].where.startswith(location)
    ((_, size, time),) = file_states(location)
    assert (size, time) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("as_uri", [False, True])
def test_folders_of_files_with_differing_schemas(tmp_path: Path, as_uri: bool) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), tmp_path / "a.parquet")
    other = pa.Table.from_pylist([{"extra": 1, **dict(reversed(row.items()))} for row in ROWS[2:4]])
    pq.write_table(other, tmp_path / "b.parquet", row_group_size=1)
    write(tmp_path / "c.jsonl", [{"note": None, **row} for row in ROWS[4:6]])
    write(tmp_path / "d.jsonl.gz", ROWS[6:])
    write(tmp_path / "README.md", "no data")
    rows, bad = read(kind="table", path=tmp_path.as_uri() if as_uri else str(tmp_path))
    assert keys(rows) == EXPECTED
    assert not bad


def packed(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return pa.compress(content, "zstd", asbytes=True)
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)


def as_text(kind: str) -> str:
    """The rows, as a file of this kind has them."""
    if kind in (".jsonl", ".ndjson", ".JSONL"):
        return "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind == ".json":
        return json.dumps(ROWS, indent=1)
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t" if kind == ".tsv" else ",")
    table.writerows([list(ROWS[0]), *(list(row.values()) for row in ROWS)])
    return text.getvalue()


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".JSONL", ".json", ".csv", ".tsv"])
def test_every_kind_of_table_plain_and_packed(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"rows{kind}{suffix}"
    path.write_bytes(packed(b"\xef\xbb\xbf" + as_text(kind).encode(), suffix))
    rows, bad = read(kind="table", path=str(path))
    assert keys(rows) == EXPECTED
    assert not bad
    assert len({row.where for row in rows}) == len(rows)


def test_json_lines_in_a_file_of_another_name(tmp_path: Path) -> None:
    for name in ("rows.json", "rows", "rows.txt"):
        rows, bad = read(kind="table", path=write(tmp_path / name, ROWS))
        assert (keys(rows), bad) == (EXPECTED, [])
    with refused("NOT_ROWS", "pretty.json", "kind: squad"):
        read(kind="table", path=write(tmp_path / "pretty.json", json.dumps({"data": ROWS}, indent=1)))


def test_long_arrays_are_read_piece_by_piece(tmp_path: Path) -> None:
    values = [{**GOOD_ROW, "item_id": str(n), "passage": "p" * (n * 50_000)} for n in range(40)]
    path = write(tmp_path / "rows.json", json.dumps(values, ensure_ascii=False))
    rows, bad = read(kind="table", path=path)
    assert [len(row.passage) for row in rows] == [n * 50_000 for n in range(40)]
    assert [row.where for row in rows[:2]] == [f"{path}: element 0", f"{path}: element 1"]
    assert not bad


def test_cells_keep_what_they_hold(tmp_path: Path) -> None:
    """No reader makes a date, a number or a null of a text that looks like one."""
    odd = [
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "007",
        "1e5",
        "NaN",
        "NA",
        "null",
        "true",
        "1,000",
        'a "b"',
        "a\nb",
        "=",
    ]
    lines = [{"item_id": each, "language": "de", "question": each, "passage": f"{each}!"} for each in odd]
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "rows.parquet")
    write(tmp_path / "rows.jsonl", lines)
    write(tmp_path / "rows.json", json.dumps(lines))
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(lines[0]), *(list(line.values()) for line in lines)])
    for path in sorted(tmp_path.iterdir()):
        rows, bad = read(kind="table", path=path)
        assert [(row.item_id, row.question, row.passage) for row in rows] == [(each, each, f"{each}!") for each in odd]
        assert not bad


def test_separated_values_of_spreadsheets_and_of_plain_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "item_id;language;question;passage\n1;de;a, b;c\n\n2;de;q;p;x\n3;de;q\n")
    rows, bad = read(kind="table", path=path)
    assert keys(rows) == [("1", "de", "a, b", "c")]
    assert [(row.where, row.reason) for row in bad] == [
        (f"{path}:{n}", "another number of cells than the header has") for n in (4, 5)
    ]
    text = 'item_id\tlanguage\tquestion\tpassage\n1\tde\t"Wo" fragt er\t5" breit\n2\tde\t"quoted ""so"""\t"p"\n'
    rows, bad = read(kind="table", path=write(tmp_path / "rows.tsv", text))
    assert keys(rows) == [("1", "de", '"Wo" fragt er', '5" breit'), ("2", "de", 'quoted "so"', "p")]
    assert not bad
    path = write(tmp_path / "open.csv", 'item_id,language,question,passage\n1,de,"q,p\n2,de,q,p\n3,de,q,p\n')
    rows, bad = read(kind="table", path=path)
    assert (keys(rows), [row.where for row in bad]) == ([], [f"{path}:{n}" for n in (2, 3, 4)])
    with refused("COLUMNS", "no column 'item_id', 'language', ", "there are 'a', 'b'"):
        read(kind="table", path=write(tmp_path / "other.csv", "a,b\n1,2\n"))


def test_whole_numbers_that_were_stored_as_floats_are_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = [12.0, 3, float("nan"), 1.5, 2.0**60, -0.0]
    lines = [{**GOOD_ROW, "item_id": value} for value in values]
    write(tmp_path / "rows.jsonl", lines)
    pq.write_table(pa.table({**{key: ["x"] * 6 for key in GOOD_ROW}, "item_id": values}), tmp_path / "rows.parquet")
    for name, number in (("rows.jsonl", "3"), ("rows.parquet", "3")):
        caplog.clear()
        rows, bad = read(kind="table", path=tmp_path / name)
        assert [row.item_id for row in rows] == ["12", number, "", "0"]
        assert [row.reason for row in bad] == ["column 'item_id' holds a float, not text"] * 2
        assert FLOAT_IDS in caplog.text


PAIRS = {
    "anchor and positive": [{"anchor": "q", "positive": "p", "negative": "n"}],
    "query and positive": [{"query": "q", "positive": "p"}],
    "FlagEmbedding": [{"query": "q", "pos": ["p"], "neg": ["n", "m"], "prompt": "x"}],
    "Tevatron": [{"query_id": 7, "query": "q", "positive_passages": [{"docid": "d", "title": "", "text": "p"}],
                  "negative_passages": []}],
    "question and passage": [{"question": "q", "passage": "p"}],
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json"])
def test_columns_of_negatives_are_named_once(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(PAIRS["FlagEmbedding"] * 2), path)
        else:
            values = PAIRS["FlagEmbedding"] * 2
            write(path, values if suffix == "jsonl" else json.dumps(values))
    rows, bad = read(kind="table", path=tmp_path, language="en")
    assert (len(rows), len(bad)) == (4, 0)
    (message,) = (record.message for record in caplog.records)
    assert "0." in message
    assert "'neg'" in message
    assert "`hbt mine`" in message


def test_negatives_that_are_another_column_are_not_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "rows.jsonl", [{"query": "q", "negative": "p"}])
    rows, _ = read(kind="table", path=path, language="en", columns={"passage": "negative"})
    assert [row.passage for row in rows] == ["p"]
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json"])
@pytest.mark.parametrize("form", PAIRS)
def test_pairs_in_one_language_need_no_ids(tmp_path: Path, form: str, suffix: str) -> None:
    path, values = tmp_path / f"rows.{suffix}", PAIRS[form] * 2
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(values), path)
    else:
        write(path, values if suffix == "jsonl" else json.dumps(values))
    rows, bad = read(kind="table", path=path, language="swa")
    assert [(row.language, row.question, row.passage) for row in rows] == [("sw", "q", "p")] * 2
    assert not bad
    if form == "Tevatron":
        assert [(row.item_id, row.passage_id) for row in rows] == [("7", "d")] * 2
    else:
        assert len({row.item_id for row in rows}) == 2
        assert not any(str(tmp_path) in row.item_id for row in rows)
    with refused("COLUMNS") if suffix == "parquet" else contextlib.nullcontext():
        rows, bad = read(kind="table", path=path)
        assert (len(rows), len(bad)) == (0, 2)


def test_every_right_passage_of_a_question_is_an_item(tmp_path: Path) -> None:
    values = [{"query": "q", "pos": ["a", "b"], "neg": []}, {"query": "r", "pos": []}, {"query": "s", "pos": "c"}]
    values += [{"query": "t", "pos": ["d", None, 3]}]
    rows, bad = read(kind="table", path=write(tmp_path / "rows.jsonl", values), language="en")
    assert keys(rows) == [
        ("1/0", "en", "q", "a"),
        ("1/1", "en", "q", "b"),
        ("4/0", "en", "t", "d"),
        ("4/1", "en", "t", ""),
    ]
    assert [row.where.rpartition(":")[2] for row in bad] == ["2", "3", "4"]


def test_what_has_two_meanings_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"query": "q", "anchor": "a", "positive": "p"}])
    rows, (bad,) = read(kind="table", path=path, language="en")
    assert not rows
    assert "'query' and 'anchor' may both be the question" in bad.reason
    rows, bad = read(kind="table", path=path, language="en", columns={"question": "anchor"})
    assert [row.question for row in rows] == ["a"]
    assert not bad


@pytest.mark.parametrize("kind", ["table", "bitext"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_translations_are_bitext(tmp_path: Path, kind: str, suffix: str) -> None:
    values: list[dict[str, Any]] = [
        {"id": "0", "translation": {"en": "Hi", "deu": "Hallo"}},
        {"id": "1", "translation": {"en": "Bye", "deu": None}},
    ]
    path = tmp_path / f"rows.{suffix}"
    write(path, values) if suffix == "jsonl" else pq.write_table(pa.Table.from_pylist(values), path)
    columns = {"item_id": "id"} if kind == "table" else {}
    rows, bad = read(kind=kind, path=path, columns=columns)
    assert keys(rows) == [("0", "en", "Hi", "Hi"), ("0", "deu", "Hallo", "Hallo"), ("1", "en", "Bye", "Bye")]
    assert not bad
    variable = {"id": "2", "translation": {"language": ["en", "fr"], "translation": ["a", "b"]}}
    path = write(tmp_path / "other.jsonl", [variable, {"id": "3", "translation": "text"}])
    rows, bad = read(kind=kind, path=path, columns=columns)
    assert [(row.item_id, row.language, row.passage) for row in rows] == [("2", "en", "a"), ("2", "fr", "b")]
    assert [row.reason for row in bad] == ["column 'translation' holds a str, not language → sentence"]


def test_folders_are_read_whole_and_what_is_no_rows_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "data" / "a" / "one.JSONL", ROWS[:2])
    write(tmp_path / "data" / "b" / "deep" / "two.json", json.dumps(ROWS[2:4]))
    pq.write_table(pa.Table.from_pylist(ROWS[4:6]), tmp_path / "data" / "c.PARQUET")
    write(tmp_path / "data" / "d.jsonl.gz", ROWS[6:])
    for stray in (".DS_Store", "._d.jsonl.gz", ".ipynb_checkpoints/d-checkpoint.jsonl", "_SUCCESS", "a/.hidden.jsonl",
                  "_temporary/0/part.parquet", "README.md", "notes.arrow", "dataset_info.json"):  # fmt: skip
        write(tmp_path / "data" / stray, "garbage")
    rows, bad = read(kind="table", path=tmp_path / "data")
    assert sorted(keys(rows)) == sorted(EXPECTED)
    assert not bad
    assert "README.md" in caplog.text
    assert "notes.arrow" in caplog.text
    assert "_temporary/0/part.parquet" in caplog.text
    assert ".DS_Store" not in caplog.text
    assert len(file_states(str(tmp_path / "data"))) == 4 + 5  # Hidden files are no part of the recipe.


def test_partitions_are_columns(tmp_path: Path) -> None:
    for language in ("de", "en"):
        values = [{key: row[key] for key in row if key != "language"} for row in ROWS if row["language"] == language]
        folder = tmp_path / f"language={language}"
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(values[:2]), folder / "part 0.parquet")
        write(folder / "dataset=x%2Fy" / "part-1.jsonl", values[2:])
    columns = {"dataset": "dataset"}
    for location in (str(tmp_path), tmp_path.as_uri()):
        rows, bad = read(kind="table", path=location)
        assert sorted(keys(rows)) == sorted(EXPECTED)
        assert not bad
    with refused("COLUMNS", "'dataset'"):
        read(kind="table", path=str(tmp_path), columns=columns)
    (tmp_path / "language=de" / "part 0.parquet").unlink()
    (tmp_path / "language=en" / "part 0.parquet").unlink()
    rows, _ = read(kind="table", path=str(tmp_path), columns=columns)
    assert {row.dataset for row in rows} == {"x/y"}


def test_links_in_a_ring_end(tmp_path: Path) -> None:
    write(tmp_path / "data" / "rows.jsonl", ROWS)
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "more.jsonl", [{**GOOD_ROW}])
    for name, target in (("ring", "."), ("sub", "../data"), ("linked", "../elsewhere"), ("self.jsonl", "self.jsonl"),
                         ("dead.jsonl", "nowhere")):  # fmt: skip
        (tmp_path / "data" / name).symlink_to(target)
    rows, _ = read(kind="table", path=tmp_path / "data")
    assert len(rows) == len(ROWS) + 1
    assert len(file_states(str(tmp_path / "data"))) == 2


def test_folders_whose_files_do_not_all_count_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "part-0.parquet")
    write(tmp_path / "_delta_log" / "0000.json", "{}")
    with refused("DELTA_LAKE"):
        read(kind="table", path=tmp_path)


def test_ids_may_be_numbers_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**row, "item_id": 7} for row in ROWS[:1]]), tmp_path / "n.parquet")
    rows, _ = read(kind="table", path=str(tmp_path / "n.parquet"))
    assert rows[0].item_id == "7"


def test_unknown_stores_are_refused_in_one_line(tmp_path: Path) -> None:
    config = {"path": "foo://bucket/store", "sources": [{"kind": "table", "name": "t", "path": "x.jsonl"}]}
    with pytest.raises(LocationError) as error:
        prepare(StoreConfig.make(config, "test"))
    assert error.value.code == "INVALID_LOCATION"
    with pytest.raises(LocationError):
        Store("foo://bucket/store")
    dead = "s3://key:secret@bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(InputError) as refused:
        prepare(StoreConfig.make({**config, "path": dead}, "test"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("location", ["nowhere.jsonl", "file:///nowhere/rows.parquet", "nofs://bucket/rows.jsonl"])
def test_missing_files_and_unknown_stores_are_named(location: str) -> None:
    with pytest.raises(SourceError, match=location):
        read(kind="table", path=location)


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
    with refused("MISSING_LIBRARY", "pip install 'hbt-ray[hub]'"):
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


def test_rows_whose_sides_differ_in_language_are_rejected(tmp_path: Path) -> None:
    lines = [
        {"item_id": "1", "language": "sw", "of_passage": "sw", "question": "q", "passage": "p"},
        {"item_id": "2", "language": "sw", "of_passage": "en", "question": "q", "passage": "p"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = TableSource.make(
        {"kind": "table", "name": "t", "path": str(path), "columns": {"passage_language": "of_passage"}}, "test"
    )
    kept, rejected = source.rows()
    assert isinstance(kept, SourceRow)
    assert (kept.item_id, kept.language) == ("1", "sw")
    assert isinstance(rejected, BadRow)
    assert "different languages" in rejected.reason
