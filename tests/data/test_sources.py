"""Sources that are tables: formats, folders, layouts of columns, and what is refused."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.data.formats.files import file_states
from hbt_ray.data.formats.source_row import FLOAT_IDS, BadRow, SourceRow
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.sources.file_sources import TableSource
from hbt_ray.data.store.store import Store
from hbt_ray.errors import InputError, LocationError, SourceError
from tests.data.source_rows import EXPECTED, GOOD_ROW, ROWS, keys, read, write
from tests.refused import refused


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
