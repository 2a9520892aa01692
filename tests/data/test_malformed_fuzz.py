"""Random bytes, pieces, values and cells as input: each is read or refused by name, and nothing is lost."""

from __future__ import annotations

import bz2
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.malformed import (
    GOOD,
    JSON_DOCS,
    JUDGED,
    OTHER,
    judged_source,
    parquet_bytes,
    prepared,
    prepared_or_named,
)


@settings(deadline=None)
@given(content=st.binary(max_size=400))
def test_random_bytes_as_jsonl(content: bytes) -> None:
    for name, stored in (("rows.jsonl", content), ("rows.jsonl.gz", gzip.compress(content)), ("raw.jsonl.gz", content)):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(stored)
            prepared_or_named(Path(folder), name, kind="table", path=f"{folder}/{name}")


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=400))
def test_random_bytes_as_parquet_and_squad(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.parquet").write_bytes(content)
        assert prepared_or_named(Path(folder), "rows.parquet", kind="table", path=f"{folder}/rows.parquet") is None
        prepared_or_named(Path(folder), "rows.parquet", kind="squad", files={"de": f"{folder}/rows.parquet"})


PIECES = [
    "{", "}", "[", "]", ",", ":", '"', "\n", '"item_id"', '"de"', "null", "1e999", "9" * 5000, "\\ud800", "\0", "é",
    json.dumps(GOOD), json.dumps(OTHER), "item_id,language,question,passage\n", "a,de,q,p\n", "\t", "\r", ";",
    '"pos": ["a"]', '"translation": {"de": 1}',
]  # fmt: skip
TABLES = ["rows.json", "rows.csv", "rows.tsv", "rows.ndjson", "rows", "rows.json.gz", "rows.csv.zst", "rows.tsv.bz2"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(TABLES),
    content=st.lists(st.sampled_from(PIECES), max_size=12).map("".join).map(str.encode) | st.binary(max_size=200),
    language=st.sampled_from(["", "de"]),
)
def test_random_pieces_as_any_table(name: str, content: bytes, language: str) -> None:
    packed = {"gz": gzip.compress, "bz2": bz2.compress}.get(name.rpartition(".")[2], bytes)(content)
    if name.endswith(".zst"):
        packed = pa.compress(content, "zstd", asbytes=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(packed)
        prepared_or_named(Path(folder), name, kind="table", path=f"{folder}/{name}", language=language)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), name=st.sampled_from(["rows.parquet", "rows.json.gz", "rows.json.bz2", "rows.json.zst"]))
def test_changed_bytes_of_packed_files(data: st.DataObject, name: str) -> None:
    rows = [{**GOOD, "item_id": str(n), "pos": [f"p{n}"] * 3, "when": None} for n in range(50)]
    text = json.dumps(rows).encode()
    packed = {
        "parquet": lambda: parquet_bytes(pa.Table.from_pylist(rows)),
        "gz": lambda: gzip.compress(text),
        "bz2": lambda: bz2.compress(text),
        "zst": lambda: pa.compress(text, "zstd", asbytes=True),
    }
    content = bytearray(packed[name.rpartition(".")[2]]())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), len(content) // 2]))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(bytes(content[:cut]))
        prepared_or_named(Path(folder), name, kind="table", path=f"{folder}/{name}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
VALUES = JSON | st.sampled_from(["de", "en", "a", "b", "zho", "\ud800", "\0", "../x"])
KEYS = st.sampled_from([*GOOD, "origin", "query", "anchor", "pos", "positive_passages", "translation", "is_impossible",
                        "answers"])  # fmt: skip


@settings(deadline=None, derandomize=True)
@given(rows=st.lists(st.dictionaries(KEYS, VALUES, min_size=3), min_size=1, max_size=8), named=st.booleans())
def test_random_values_as_rows(rows: list[dict[str, Any]], named: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns = {"dataset": "origin"} if named else {}
        made = prepared(Path(folder), kind="table", path=f"{folder}/rows.jsonl", columns=columns)
        assert made.num_read >= len(rows)  # A record may be several rows.


CELLS = st.lists(st.sampled_from(["q", "d", "Q0", "1", "0", "-1", "nan", "x\0", "\u2028"]), max_size=5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lines=st.lists(CELLS.map("\t".join), max_size=6), kind=st.sampled_from(list(JUDGED)))
def test_random_cells_as_judgements_and_texts(lines: list[str], kind: str) -> None:
    judged, corpus, questions = JUDGED[kind]
    more = "\n".join(lines).encode()  # They may contradict the lines of q and d, but not those of k and m.
    judged += judged.splitlines()[-1].replace(b"q", b"k").replace(b"d", b"m") + b"\n"
    corpus += b"m\tM\n" if kind == "mmarco" else JSON_DOCS.replace(b'"d"', b'"m"')
    questions += b'{"_id": "k", "text": "K"}\n' if kind == "beir" else b"k\tK\n"
    with tempfile.TemporaryDirectory() as folder:
        source = judged_source(Path(folder), kind, judged + more, corpus + more, questions + more)
        assert prepared(Path(folder), **source).num_kept >= 1
