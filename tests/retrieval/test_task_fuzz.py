"""Damaged and odd task files: each is read or refused with one named error, whatever the kind of task.

Small valid files of every kind are changed in seeded ways: bytes that are cut, flipped, repeated or replaced, JSON
values and Parquet columns of another type. Whatever happens, `open_task` returns a task or raises an `InputError` of
one line.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.errors import InputError
from hbt_ray.retrieval.tasks import open_task
from tests.retrieval.task_files import mewslix_file, write

NUM_MUTATIONS = 120
"""A kind of file."""


def beir(folder: Path) -> str:
    write(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": f"text {n}"} for n in range(3)])
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(2)])
    write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q0\td1\t2", "q1\td2\t1"])
    return f"beir={folder}"


def beir_json(folder: Path) -> str:
    beir(folder)
    (folder / "qrels" / "test.tsv").unlink()
    write(folder / "qrels" / "test.jsonl", [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": n} for n in range(2)])
    return f"beir={folder}"


def miracl(folder: Path) -> str:
    write(folder / "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv", ["0\tnani?", "1\tnini?"])
    write(folder / "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv", ["0\tQ0\t1#0\t1", "1\tQ0\t1#1\t1"])
    write(
        folder / "miracl-corpus-v1.0-sw/docs-0.jsonl.gz",
        [{"docid": f"1#{n}", "title": "T", "text": "x"} for n in (0, 1)],
    )
    return f"miracl={folder}"


def lareqa(folder: Path) -> str:
    for tag in ("de", "en"):
        questions = [
            {"id": f"i{n}", "question": "Wo?", "answers": [{"answer_start": 5 * n, "text": "x"}]} for n in (0, 1)
        ]
        paragraph = {"context": "Eins.Zwei.", "sentence_breaks": [[0, 5], [5, 10]], "qas": questions}
        write(folder / f"{tag}.json", [{"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]}])
    return f"xquad-r={folder}"


def mewslix(folder: Path) -> str:
    return f"mewsli-x={mewslix_file(folder)}"


def tatoeba(folder: Path) -> str:
    write(folder / "tatoeba.deu-eng.deu", ["eins", "zwei"])
    write(folder / "tatoeba.deu-eng.eng", ["one", "two"])
    return f"tatoeba={folder}"


def tatoeba_table(folder: Path) -> str:
    columns = {"lang3": ["deu"] * 2, "n": [0, 1], "sentence": ["eins", "zwei"], "english": ["one", "two"]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return f"tatoeba={folder / 't.parquet'}"


def flores(folder: Path) -> str:
    for code, lines in (("eng_Latn", ["one", "two"]), ("deu_Latn", ["eins", "zwei"])):
        write(folder / "devtest" / f"{code}.devtest", lines)
    return f"flores={folder}"


def flores_table(folder: Path) -> str:
    columns = {"lang": ["eng_Latn", "deu_Latn"], "n": [0, 0], "sentence": ["one", "eins"]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return f"flores={folder / 't.parquet'},search=pool"


KINDS: dict[str, Callable[[Path], str]] = {
    made.__name__: made
    for made in (beir, beir_json, miracl, lareqa, mewslix, tatoeba, tatoeba_table, flores, flores_table)
}
VALUES: list[Any] = [
    None, True, 0, -1, 10**30, 0.5, float("nan"), float("inf"), "", " ", "\ud800", "a\0b", "q0", [], [[]], {},
    {"a": []}, ["x"], "de", "xx", "\u2028", "1e999",
]  # fmt: skip
BYTES = [
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"{",
    b"]",
    b'"',
    b"\t",
    b"\n",
    b"\r",
    b"[" * 9999,
    b"9" * 5000,
    b"",
]


def broken(content: bytes, rng: random.Random) -> bytes:
    """The bytes of a file, changed in one place."""
    at, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice([
        content[:at],
        content[:at] + content[end:],
        content[:at] + rng.choice(BYTES) + content[at:],
        content[:at] + rng.choice(BYTES) + content[end:],
        content + content,
        bytes(byte ^ (1 << rng.randrange(8)) if at == place else byte for place, byte in enumerate(content)),
        b"",
    ])  # fmt: skip


def other_value(node: Any, rng: random.Random) -> Any:
    """JSON with one value replaced, or one key taken away."""
    if isinstance(node, dict) and node and rng.random() < 0.9:
        key = rng.choice(list(node))
        if rng.random() < 0.15:
            return {name: value for name, value in node.items() if name != key}
        return {**node, key: other_value(node[key], rng)}
    if isinstance(node, list) and node and rng.random() < 0.9:
        at = rng.randrange(len(node))
        return [*node[:at], other_value(node[at], rng), *node[at + 1 :]]
    return rng.choice(VALUES)


def other_column(path: Path, rng: random.Random) -> None:
    """A Parquet file with one column that is gone, or of another type."""
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    num = table.num_rows
    changed: list[Any] = [
        pa.array([None] * num), pa.array([1.5] * num), pa.array([7] * num), pa.array([["a"]] * num),
        pa.array([b"\xff"] * num),
        pa.array([True] * num), pa.array([{"a": 1}] * num), pa.array([0] * num, pa.timestamp("ns")),
        pa.array([2**60] * num).cast(pa.timestamp("us")), pa.array(["a\0"] * num), pa.array([""] * num),
        pa.array(["0"] * num).dictionary_encode(), pa.array(["x"] * num, pa.large_string()),
    ]  # fmt: skip
    kept = table.drop_columns(name)
    if rng.random() < 0.9:
        kept = kept.append_column(name, rng.choice(changed))
    pq.write_table(kept if rng.random() < 0.9 else kept.slice(0, 0), path)


def mutations(folder: Path, rng: random.Random) -> Iterator[None]:
    """Change one file at a time, and restore it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(NUM_MUTATIONS):
        path = rng.choice(files)
        content = path.read_bytes()
        if path.suffix == ".parquet" and rng.random() < 0.7:
            other_column(path, rng)
        elif path.suffix in (".json", ".jsonl") and rng.random() < 0.6:
            lines = [json.loads(line) for line in content.splitlines()]
            at = rng.randrange(len(lines))
            lines[at] = other_value(lines[at], rng)
            write(path, [json.dumps(line) for line in lines] * (2 if rng.random() < 0.1 else 1))
        else:
            path.write_bytes(broken(content, rng))
        yield
        path.write_bytes(content)


def refusal(spec: str) -> str:
    """Why a task is refused; empty if it is read. Any other error is a bug and goes through."""
    try:
        task = open_task(spec)
    except InputError as error:
        return str(error)
    assert task.fingerprint
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_odd_files_are_read_or_refused_by_name(kind: str, tmp_path: Path) -> None:
    spec = KINDS[kind](tmp_path)
    open_task(spec)
    num_refused = 0
    for number, _ in enumerate(mutations(tmp_path, random.Random(kind))):
        message = refusal(spec)
        num_refused += bool(message)
        assert "\n" not in message.strip(), (number, message)
        assert len(message) < 2000, (number, message)
    assert num_refused > NUM_MUTATIONS / 5
    open_task(spec)
