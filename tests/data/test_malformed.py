"""Malformed input: every row is kept or rejected with its place and reason, every broken file is named; no traceback.

A case is what a person may really be handed: cut lines, other encodings, wrong types, damaged archives.
"""

from __future__ import annotations

import bz2
import decimal
import gzip
import json
import lzma
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.data.formats import files
from hbt_ray.data.prepare import PrepareResult
from hbt_ray.errors import SourceError
from tests.data.malformed import (
    GOOD,
    OTHER,
    escaped,
    line,
    parquet_bytes,
    prepared,
    prepared_or_named,
)
from tests.refused import refused

REJECTED = {
    "cut within a string": (line()[:40], "no valid JSON"),
    "cut after a key": (b'{"item_id"', "no valid JSON"),
    "cut before the brace": (line()[:-1], "no valid JSON"),
    "two objects": (line() + line(), "no valid JSON"),
    "a comma too many": (line()[:-1] + b",}", "no valid JSON"),
    "single quotes": (line().replace(b'"', b"'"), "no valid JSON"),
    "words": (b"Lorem ipsum", "no valid JSON"),
    "CSV": (b"item_id,language,question,passage", "no valid JSON"),
    "raw NUL": (line(question="a\0b").replace(b"\\u0000", b"\0"), "no valid JSON"),
    "only NUL": (b"\0" * 100, "no valid JSON"),
    "raw tab": (line(question="a\tb").replace(b"\\t", b"\t"), "no valid JSON"),
    "a mark within the file": (b"\xef\xbb\xbf" + line(), "no valid JSON"),
    "bad escape": (line().replace(b"Wo?", b"\\x41"), "no valid JSON"),
    "a list": (b"[1, 2]", "a JSON list"),
    "a string": (b'"text"', "a JSON str"),
    "a number": (b"17", "a JSON int"),
    "null": (b"null", "a JSON NoneType"),
    "not a number": (b"NaN", "a JSON float"),
    "deep": (b'{"item_id":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no usable JSON"),
    "a number of 10,000 digits": (b'{"item_id": ' + b"9" * 10_000 + b"}", "no usable JSON"),
    "key twice": (line()[:-1] + b', "question": "Was?"}', "no usable JSON: a key that stands twice"),
    "nested key twice": (line()[:-1] + b', "note": {"a": 1, "a": 2}}', "no usable JSON: a key that stands twice"),
    "latin-1": (line(question="Größe").decode().encode("latin-1"), "no UTF-8 text"),
    "windows-1251": (line(question="Где?").decode().encode("cp1251"), "no UTF-8 text"),
    "shift-jis": (line(question="どこ").decode().encode("shift-jis"), "no UTF-8 text"),
    "gbk": (line(question="哪里").decode().encode("gbk"), "no UTF-8 text"),
    "cut character": (b'{"item_id": "\xe4\xb8', "no UTF-8 text"),
    "overlong": (line().replace(b"Wo?", b"\xc0\xaf"), "no UTF-8 text"),
    "raw surrogate": (line(question="\ud800"), "no UTF-8 text"),
    "random bytes": (bytes(range(128, 256)), "no UTF-8 text"),
    "escaped surrogate in the question": (escaped(question="a\ud800b"), "question holds half a surrogate pair"),
    "escaped surrogate in the passage": (escaped(passage="\udfff"), "passage holds half a surrogate pair"),
    "escaped surrogate in the id": (escaped(item_id="x\udc00"), "item id holds half a surrogate pair"),
    "surrogates the wrong way round": (escaped(question="\udc00\ud800"), "question holds half a surrogate pair"),
    "escaped surrogate in the language": (escaped(language="d\ud800"), "language is no BCP-47 tag"),
    "escaped NUL in the question": (escaped(question="a\0b"), "question holds a NUL character"),
    "escaped NUL in the passage": (escaped(passage="\0"), "passage holds a NUL character"),
    "escaped NUL in the id": (escaped(item_id="x\0y"), "item id holds a NUL character"),
    "no question": (line(drop="question"), "no column 'question'"),
    "no passage": (line(drop="passage"), "no column 'passage'"),
    "no language": (line(drop="language"), "no column 'language'"),
    "no id": (line(drop="item_id"), "no column 'item_id'"),
    "an empty object": (b"{}", "no column 'item_id', 'language'"),
    "key in capitals": (line().replace(b"question", b"Question"), "no column 'question'"),
    "number as question": (line(question=3), "column 'question' holds a int"),
    "float as passage": (line(passage=0.5), "column 'passage' holds a float"),
    "bool as question": (line(question=True), "column 'question' holds a bool"),
    "bool as id": (line(item_id=False), "column 'item_id' holds a bool"),
    "float as id": (line(item_id=1.5), "column 'item_id' holds a float"),
    "huge number as id": (line(item_id=10**200), "column 'item_id' holds a int"),
    "list as passage": (line(passage=["a", "b"]), "column 'passage' holds a list"),
    "object as question": (line(question={"text": "Wo?"}), "column 'question' holds a dict"),
    "number as language": (line(language=7), "column 'language' holds a int"),
    "null as question": (line(question=None), "question is empty"),
    "null as language": (line(language=None), "language is no BCP-47 tag"),
    "null as id": (line(item_id=None), "item id is empty"),
    "blank question": (line(question=" \t\u3000\u2028"), "question is empty"),
    "blank id": (line(item_id=" "), "item id is empty"),
    "name of a language": (line(language="german"), "language is no BCP-47 tag"),
    "unknown language": (line(language="xx"), "language is no BCP-47 tag"),
    "language of 1 MB": (line(language="de" * 500_000), "language is no BCP-47 tag"),
    "the same again": (line(item_id="g1"), "item has this language already"),
    "the same in three letters": (line(item_id="g1", language="deu"), "item has this language already"),
}

KEPT = {
    "right-to-left marks": line(question="\u200fأين\u202e?\u202c", passage="\u2067هنا\u2069"),
    "U+2028 and U+2029": line(question="one\u2028two\u2029three", passage="a\x85b"),
    "form feed and carriage return": escaped(question="a\fb\rc\vd", passage="line\nbreak"),
    "an emoji as two escapes": escaped(question="where 😀?"),
    "combining marks": line(question="e\u0301" * 50),
    "not characters": line(question="\ufffe\uffff\U0010ffff"),
    "zero width": line(question="a\u200b\u200d\ufeffb"),
    "10 MB passage": line(passage="wort " * 2_000_000),
    "id of 1 MB": line(item_id="x" * 1_000_000),
    "id with slashes": line(item_id="../../etc/passwd"),
    "id as number": line(item_id=7),
    "negative id": line(item_id=-7),
    "more columns": line(note=[1, {"a": None}], score=float("nan")),
    "spaces around": b"  " + line() + b" \t",
    "another language of an item": line(item_id="g1", language="ZH_hant"),
}

LAYOUTS = {
    "plain": lambda lines: b"\n".join(lines) + b"\n",
    "windows": lambda lines: b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n",
    "packed with blank lines": lambda lines: gzip.compress(b"\n\n \n".join(lines)),
}


def among_good_rows(root: Path, layout: str, content: bytes) -> PrepareResult:
    lines = [json.dumps(GOOD).encode(), content, json.dumps(OTHER).encode()]
    path = root / ("rows.jsonl.gz" if "packed" in layout else "rows.jsonl")
    path.write_bytes(LAYOUTS[layout](lines))
    return prepared(root, kind="table", path=str(path))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", REJECTED)
def test_a_bad_line_costs_itself_only(tmp_path: Path, layout: str, case: str) -> None:
    content, reason = REJECTED[case]
    made = among_good_rows(tmp_path, layout, content)
    assert (made.num_read, made.num_kept) == (3, 2)
    (rejected,) = made.rejected
    assert rejected.startswith(reason)
    place = 4 if "packed" in layout else 2
    assert f":{place}" in json.loads((tmp_path / "store" / "rejected.jsonl").read_text().split("\n")[0])["where"]


@pytest.mark.parametrize("case", KEPT)
def test_an_odd_line_is_kept_as_it_is(tmp_path: Path, case: str) -> None:
    made = among_good_rows(tmp_path, "plain", KEPT[case])
    assert (made.num_read, made.num_kept) == (3, 3)
    shards = [pa.ipc.open_file(path).read_all() for path in (tmp_path / "store" / "s").iterdir()]
    values = json.loads(KEPT[case])
    values_of = (value for shard in shards for column in shard.columns for value in column.to_pylist())
    stored = {value for value in values_of if isinstance(value, str)}
    assert str(values["item_id"]) in stored
    assert {values["question"], values["passage"]} <= stored


CSV_HEADER = b"item_id,language,question,passage\n"
ZST = pa.compress(json.dumps(GOOD).encode() + b"\n", "zstd", asbytes=True)
LONG_LINES = (b'{"a": "' + b" " * 50_000 + b'"}\n') * 100
BOMB_ZST = pa.compress(LONG_LINES, "zstd", asbytes=True)


BROKEN_FILES = {
    "empty": ("rows.jsonl", b"", "EMPTY_FILE"),
    "blank": ("rows.jsonl", b"\n \r\n\t\n", "EMPTY_FILE"),
    "only a mark": ("rows.jsonl", b"\xef\xbb\xbf", "EMPTY_FILE"),
    "UTF-16": ("rows.jsonl", json.dumps(GOOD).encode("utf-16"), "ENCODING"),
    "UTF-16, other order": ("rows.jsonl", b"\xfe\xff" + json.dumps(GOOD).encode("utf-16-be"), "ENCODING"),
    "UTF-32": ("rows.jsonl", json.dumps(GOOD).encode("utf-32"), "ENCODING"),
    "gz of nothing": ("rows.jsonl.gz", b"", "EMPTY_FILE"),
    "gz of an empty file": ("rows.jsonl.gz", gzip.compress(b""), "EMPTY_FILE"),
    "gz of garbage": ("rows.jsonl.gz", b"garbage" * 99, "UNREADABLE_FILE"),
    "gz that is plain": ("rows.jsonl.gz", json.dumps(GOOD).encode(), "UNREADABLE_FILE"),
    "gz cut short": ("rows.jsonl.gz", gzip.compress(json.dumps(GOOD).encode())[:-12], "UNREADABLE_FILE"),
    "gz changed": ("rows.jsonl.gz", gzip.compress(b"x" * 99)[:-8] + bytes(8), "UNREADABLE_FILE"),
    "gz with a tail": ("rows.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() + b"\n") + b"tail", "UNREADABLE_FILE"),
    "bz2 of garbage": ("rows.jsonl.bz2", b"garbage" * 99, "UNREADABLE_FILE"),
    "bz2 cut short": ("rows.jsonl.bz2", bz2.compress(json.dumps(GOOD).encode())[:-6], "UNREADABLE_FILE"),
    "xz of garbage": ("rows.jsonl.xz", b"garbage" * 99, "UNREADABLE_FILE"),
    "xz cut short": ("rows.jsonl.xz", lzma.compress(json.dumps(GOOD).encode())[:-6], "UNREADABLE_FILE"),
    "zst of garbage": ("rows.jsonl.zst", b"garbage" * 99, "UNREADABLE_FILE"),
    "zst cut short": ("rows.jsonl.zst", ZST[:-6], "UNREADABLE_FILE"),
    "zst of nothing": ("rows.jsonl.zst", b"", "EMPTY_FILE"),
    "bomb of lines": ("rows.jsonl.gz", gzip.compress(LONG_LINES), "BOMB"),
    "bomb of CSV": ("rows.csv.gz", gzip.compress(CSV_HEADER + b"x" * (5 << 20)), "BOMB"),
    "bomb of an array": ("rows.json.bz2", bz2.compress(b"[" + b" " * (5 << 20)), "BOMB"),
    "bomb of zst": ("rows.jsonl.zst", BOMB_ZST, "BOMB"),
    "SQuAD bomb": ("de.json.gz", gzip.compress(b'{"data": [' + b" " * (5 << 20)), "BOMB"),
    "array of nothing": ("rows.json", b" [ ] ", "EMPTY_FILE"),
    "array cut short": ("rows.json", json.dumps([GOOD, OTHER]).encode()[:-9], "INVALID_JSON"),
    "array without an end": ("rows.json", json.dumps([GOOD, OTHER]).encode()[:-1], "INVALID_JSON"),
    "array with a comma too many": ("rows.json", json.dumps([GOOD]).encode()[:-1] + b",]", "INVALID_JSON"),
    "array with more after it": ("rows.json", json.dumps([GOOD]).encode() + b"{}", "INVALID_JSON"),
    "array of arrays": ("rows.json", b"[" * 100_000, "INVALID_JSON"),
    "array in UTF-16": ("rows.json", json.dumps([GOOD]).encode("utf-16"), "ENCODING"),
    "object over several lines": ("rows.json", json.dumps({"data": [GOOD]}, indent=1).encode(), "NOT_ROWS"),
    "CSV of nothing": ("rows.csv", b"", "EMPTY_FILE"),
    "CSV of a blank line": ("rows.csv", b"\n1,de,q,p\n", "EMPTY_FILE"),
    "CSV without its header": ("rows.csv", b"1,de,q,p\n", "COLUMNS"),
    "CSV of a header": ("rows.csv", CSV_HEADER, "NO_ROWS"),
    "CSV with a column twice": ("rows.csv", b"question," + CSV_HEADER + b"a,1,de,q,p\n", "COLUMNS"),
    "CSV with an open header": ("rows.csv", b'"item_id,language\n', "NO_HEADER"),
    "CSV with empty cells as header": ("rows.csv", b",,\n,,\n", "NO_HEADER"),
    "CSV in UTF-16": ("rows.csv", CSV_HEADER.decode().encode("utf-16"), "ENCODING"),
    "Parquet without columns": ("rows.parquet", parquet_bytes(pa.table({})), "COLUMNS"),
    "Parquet without rows": ("rows.parquet", parquet_bytes(pa.Table.from_pylist([GOOD])[:0]), "NO_ROWS"),
    "Parquet cut short": ("rows.parquet", parquet_bytes(pa.Table.from_pylist([GOOD]))[:-9], "INVALID_PARQUET"),
    "Parquet of nothing": ("rows.parquet", b"", "INVALID_PARQUET"),
    "Parquet of garbage": ("rows.parquet", b"PAR1" + bytes(99) + b"PAR1", "INVALID_PARQUET"),
    "Parquet that is JSON": ("rows.parquet", json.dumps(GOOD).encode() * 9, "INVALID_PARQUET"),
    "SQuAD of nothing": ("de.json", b"", "EMPTY_FILE"),
    "SQuAD cut short": ("de.json", b'{"data": [{"paragraphs": [', "INVALID_JSON"),
    "SQuAD in latin-1": ("de.json", '{"data": "é"}'.encode("latin-1"), "ENCODING"),
    "SQuAD of lists": ("de.json", b"[" * 100_000, "INVALID_JSON"),
    "SQuAD of a list": ("de.json", b"[]", "NOT_SQUAD"),
    "SQuAD as an object": ("de.json", b'{"data": {}}', "NOT_SQUAD"),
    "SQuAD of null": ("de.json", b"null", "NOT_SQUAD"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_is_named(tmp_path: Path, case: str) -> None:
    name, content, code = BROKEN_FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    source = {"kind": "squad", "files": {"de": str(path)}} if name.startswith("de.") else {"path": str(path)}
    with pytest.raises(SourceError) as caught:
        prepared(tmp_path, **{"kind": "table", **source})
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


BAD_ELEMENTS = {
    "a list": ("[1, 2]", "a JSON list"),
    "a number": ("17", "a JSON int"),
    "null": ("null", "a JSON NoneType"),
    "key twice": ('{"item_id": "a", "item_id": "b"}', "no usable JSON: a key that stands twice"),
    "nested key twice": ('{"item_id": "a", "x": [{"a": 1, "a": 2}]}', "no usable JSON: a key that stands twice"),
    "a number of 10,000 digits": ('{"item_id": ' + "9" * 10_000 + "}", "no usable JSON"),
    "an empty object": ("{}", "no column 'item_id'"),
    "half a surrogate pair": (escaped(question="\ud800").decode(), "question holds half a surrogate pair"),
    "no UTF-8": (line(question="Größe").decode(), "question holds half a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_ELEMENTS)
def test_a_bad_element_costs_itself_only(tmp_path: Path, case: str) -> None:
    element, reason = BAD_ELEMENTS[case]
    text = f"[{json.dumps(GOOD)},\n{element}\n, {json.dumps(OTHER)}]"
    path = tmp_path / "rows.json"
    path.write_bytes(text.encode("latin-1" if "UTF-8" in case else "utf-8"))
    made = prepared(tmp_path, kind="table", path=str(path))
    assert (made.num_read, made.num_kept) == (3, 2)
    assert next(iter(made.rejected)).startswith(reason)


BAD_CELLS = {
    "too few": (b"new,de,q", "another number of cells", 1),
    "too many": (b"new,de,q,p,", "another number of cells", 1),
    "latin-1": ("new,de,Größe,p".encode("latin-1"), "no UTF-8 text", 1),
    "a quotation mark within": (b'new,de,"a"b,p', "no valid CSV", 1),
    "an open quotation mark": (b'new,de,"q,p', "no valid CSV", 2),
    "a NUL": (b"new,de,a\0b,p", "question holds a NUL character", 1),
    "an old line end": (b"new,de,q\rx,p", "no valid CSV", 1),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_bad_cells_cost_their_lines_only(tmp_path: Path, case: str) -> None:
    content, reason, num_lost = BAD_CELLS[case]
    path = tmp_path / "rows.csv"
    path.write_bytes(CSV_HEADER + b"g1,de,Wo?,Hier.\n" + content + b"\ng2,en,Where?,Here.\n")
    made = prepared(tmp_path, kind="table", path=str(path))
    assert (made.num_read, made.num_kept) == (3, 3 - num_lost)
    assert next(iter(made.rejected)).startswith(reason)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    for place in (str(tmp_path / "rows.jsonl"), "/dev/zero"):
        for source in ({"kind": "table", "path": place}, {"kind": "squad", "files": {"de": place}}):
            with refused("NO_FILE", place):
                prepared(tmp_path, **source)


def test_file_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "rows") + b"/x\xff.jsonl")).write_bytes(line())
    with refused("FILE_NAME", r"'x\udcff.jsonl'"):
        prepared(tmp_path, kind="table", path=str(tmp_path / "rows"))


def test_a_file_without_line_ends_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    (tmp_path / "rows.jsonl").write_bytes(b"x" * 5000)
    with refused("LONG_LINE", "rows.jsonl:1"):
        prepared(tmp_path, kind="table", path=str(tmp_path / "rows.jsonl"))


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with refused("NO_FILE", str(tmp_path)):
        prepared(tmp_path, kind="table", path=str(tmp_path))
    with refused("NO_FILE", str(tmp_path)):
        prepared(tmp_path, kind="squad", files={"de": str(tmp_path)})


BAD_DATASETS = ["../up", "a/b", ".hidden", "manifest.json", "rejected.jsonl", "x" * 300, "a\0b", "a\ud800", "\n", "-x"]


@pytest.mark.parametrize("name", BAD_DATASETS)
def test_a_dataset_is_never_written_elsewhere(tmp_path: Path, name: str) -> None:
    rows = [{**GOOD, "origin": "fine"}, {**GOOD, "origin": name}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepared(tmp_path, kind="table", path=str(tmp_path / "rows.jsonl"), columns={"dataset": "origin"})
    assert made.num_kept == 1
    assert [info.name for info in made.manifest.datasets] == ["fine"]


COLUMNS: dict[str, tuple[Any, int]] = {  # with the number of rows that can be kept
    "numbers as questions": (pa.array([1, 2, 3]), 0),
    "lists as questions": (pa.array([["a"], [], None]), 0),
    "truth values as questions": (pa.array([True, False, None]), 0),
    "floats as questions": (pa.array([0.5, float("nan"), None]), 0),
    "bytes as questions": (pa.array([b"a", b"\xff", None]), 0),
    "nulls as questions": (pa.nulls(3), 0),
    "large strings": (pa.array(["a", "b", "c"], pa.large_string()), 3),
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), 3),
    "no UTF-8": (pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string()), 2),
    "views": (pa.array(["a", "b", "c"], pa.string_view()), 3),
    "dates beyond the year 9999": (pa.array([1 << 30] * 3, pa.int32()).view(pa.date32()), 0),
    "times that no clock shows": (pa.array([1 << 60] * 3).view(pa.time64("us")), 0),
    "timestamps beyond the year 9999": (pa.array([1 << 62] * 3).view(pa.timestamp("us")), 0),
    "timestamps of no zone": (pa.array([1 << 60] * 3).view(pa.timestamp("us", "Nowhere/Land")), 0),
    "durations": (pa.array([1 << 62] * 3).view(pa.duration("s")), 0),
    "decimals": (pa.array([decimal.Decimal("1.5")] * 3), 0),
    "structs": (pa.array([{"text": "a"}] * 3), 0),
    "maps": (pa.array([[("a", "b")]] * 3, pa.map_(pa.string(), pa.string())), 0),
    "lists of dates": (pa.array([[1 << 30]] * 3, pa.list_(pa.int32())).cast(pa.list_(pa.date32())), 0),
    "bytes of one size": (pa.array([b"ab"] * 3, pa.binary(2)), 0),
    "dictionaries of dates": (pa.array([1 << 30] * 3, pa.int32()).view(pa.date32()).dictionary_encode(), 0),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_parquet_columns_of_other_types(tmp_path: Path, case: str) -> None:
    column, num_kept = COLUMNS[case]
    ids, languages = pa.array([1, 2, 3]), pa.array(["de", "de", "en"])
    table = pa.table({"item_id": ids, "language": languages, "question": column, "passage": pa.array(["p"] * 3)})
    pq.write_table(table, tmp_path / "rows.parquet")
    made = prepared(tmp_path, kind="table", path=str(tmp_path / "rows.parquet"))
    assert (made.num_read, made.num_kept) == (3, num_kept)


@pytest.mark.parametrize("column", ["item_id", "language", "passage"])
@pytest.mark.parametrize("case", [case for case in COLUMNS if case not in ("no UTF-8", "numbers as questions")])
def test_parquet_columns_of_other_types_elsewhere(tmp_path: Path, column: str, case: str) -> None:
    table = {"item_id": pa.array(["1", "2", "3"]), "language": pa.array(["de"] * 3), "question": pa.array(["q"] * 3)}
    table |= {"passage": pa.array(["p"] * 3), column: COLUMNS[case][0]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    made = prepared(tmp_path, kind="table", path=str(tmp_path / "rows.parquet"))
    assert made.num_read == 3


def test_parquet_files_that_lack_a_column_or_name_it_twice(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([GOOD, OTHER])
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.drop_columns(["passage"]), tmp_path / "b.parquet")
    with refused("COLUMNS", "b.parquet: no column 'passage'"):
        prepared(tmp_path, kind="table", path=str(tmp_path))
    pq.write_table(table.append_column("passage", table["passage"]), tmp_path / "b.parquet")
    with refused("COLUMNS", "b.parquet: column 'passage'"):
        prepared(tmp_path, kind="table", path=str(tmp_path))
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet")
    with refused("NO_ROWS", "b.parquet"):
        prepared(tmp_path, kind="table", path=str(tmp_path))


def test_a_parquet_file_damaged_within(tmp_path: Path) -> None:
    rows = [{**GOOD, "item_id": str(n), "passage": f"p{n}" * 50} for n in range(2000)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, use_dictionary=False)
    whole = path.read_bytes()
    for at in range(4, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
        with tempfile.TemporaryDirectory(dir=tmp_path) as root:
            prepared_or_named(Path(root), path.name, kind="table", path=str(path))
