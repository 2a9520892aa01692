"""Files of evaluation tasks: writing them, opening the task, and what it holds."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from hbt_ray.retrieval.tasks import BitextTask, Task, open_task


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}


def write(path: Path, lines: Iterable[Any]) -> Path:
    """Lines of text or of JSON, packed where the name says so."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    pack = PACK.get(path.suffix, bytes)
    path.write_bytes(pack(text.encode()))
    return path


def task(spec: str) -> Task:
    opened = open_task(spec)
    assert isinstance(opened, Task)
    return opened


def bitext(spec: str) -> BitextTask:
    opened = open_task(spec)
    assert isinstance(opened, BitextTask)
    return opened


def texts(table: pa.Table) -> dict[str, str]:
    return dict(zip(table.column(0).to_pylist(), table["text"].to_pylist(), strict=True))


def pairs(task: Task) -> set[tuple[str, str]]:
    return set(zip(task.qrels["query_id"].to_pylist(), task.qrels["doc_id"].to_pylist(), strict=True))


def sides(bitext: BitextTask) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Pair of languages → its pairs of sentences."""
    found = {}
    for pair in bitext.pairs:
        columns = [
            bitext.sentences.slice(rows.start, len(rows)) for rows in (pair.source_rows, pair.target_rows)
        ]  # fmt: skip
        for tag, column in zip(pair[:2], columns, strict=True):
            assert set(column["language"].to_pylist()) == {tag}
        found[pair[:2]] = list(zip(*(column["text"].to_pylist() for column in columns), strict=True))
    return found


# Mewsli-X

SENTENCES = ("Helsinki strike", "In Helsinki, the union\nwent on strike.", "It ended.")
ARTICLE = "{}\n\n{} {}".format(*SENTENCES)
ENTITIES = {
    "Q1757": ("de", "Helsinki ist\neine Stadt. Quelle fehlt.", "Helsinki ist\neine Stadt."),
    "Q1": ("ja", "宇宙。", "宇宙。"),
}


def span(text: str, within: str, after: int = 0) -> dict[str, Any]:
    start = within.index(text, after)
    return {"start": start, "end": start + len(text)}


def mewslix_file(folder: Path, **changes: Any) -> Path:
    spans = [span(sentence, ARTICLE) for sentence in SENTENCES]
    context = {"document_id": "en-1", "language": "en", "text": ARTICLE, "sentence_spans": spans}
    named = {**span("Helsinki", ARTICLE, after=9), "text": "Helsinki"}
    mention = {"example_id": "m1", "entity_id": "Q1757", "mention_span": named}
    line = {"context": context | changes.get("context", {}), "mentions": [mention | changes.get("mention", {})]}
    write(folder / "wikinews_mentions-test.jsonl", [line])
    entities = [
        {
            "entity_id": entity,
            "title": "not used",
            "description": description,
            "description_language": tag,
            "sentence_spans": [span(sentence, description)],
        }
        for entity, (tag, description, sentence) in ENTITIES.items()
    ]
    write(folder / "candidate_set_entities.jsonl.gz", entities)
    return folder
