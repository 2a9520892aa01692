"""What tests of malformed input share: rows, sources of three files, and stores in which nothing was lost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.data.prepare import PrepareResult, StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.errors import SourceError

GOOD = {"item_id": "g1", "language": "de", "question": "Wo?", "passage": "Hier."}
OTHER = {"item_id": "g2", "language": "en", "question": "Where?", "passage": "Here."}


def line(drop: str = "", **change: Any) -> bytes:
    values = {**GOOD, "item_id": "new", **change}
    values.pop(drop, None)
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")


def escaped(**change: Any) -> bytes:
    return json.dumps({**GOOD, "item_id": "new", **change}).encode()


def prepared(root: Path, **source: Any) -> PrepareResult:
    """Prepare, and prove that nothing was lost."""
    config = {
        "path": str(root / "store"),
        "sources": [{"name": "s", **source}],
        "max_rejected": 1,
        "deduplicate": False,
    }
    made = prepare(StoreConfig.make(config, "test"))
    rejected = [json.loads(text) for text in (root / "store" / "rejected.jsonl").read_bytes().split(b"\n") if text]
    assert made.num_read == made.num_kept + len(rejected)
    assert len(rejected) == sum(made.rejected.values())
    assert all(row["where"] and row["reason"] for row in rejected)
    Store(root / "store")
    stored = sum(sum(info.items_by_language.values()) for info in made.manifest.datasets)
    assert stored == made.num_kept
    return made


def prepared_or_named(root: Path, file: str, **source: Any) -> PrepareResult | None:
    """The same, or a `SourceError` that names the file."""
    try:
        return prepared(root, **source)
    except SourceError as error:
        message = str(error)
    assert file in message
    assert not (root / "store" / "manifest.json").exists()
    return None


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def judged_source(root: Path, kind: str, lines: bytes, corpus: bytes, questions: bytes) -> dict[str, Any]:
    """A source of three files, whatever they hold."""
    paths = {name: root / name for name in ("judged", "corpus", "questions")}
    if kind == "beir":
        (root / "qrels").mkdir(exist_ok=True)
        names = {"judged": "qrels/train.tsv", "corpus": "corpus.jsonl", "questions": "queries.jsonl"}
        paths = {name: root / file for name, file in names.items()}
    for path, content in zip(paths.values(), (lines, corpus, questions), strict=True):
        path.write_bytes(content)
    judged, documents, topics = map(str, paths.values())
    if kind == "miracl":
        return {"kind": kind, "languages": {"de": {"topics": topics, "qrels": judged, "corpus": documents}}}
    if kind == "mmarco":
        return {"kind": kind, "queries": {"de": topics}, "collections": {"de": documents}, "triples": judged}
    return {"kind": kind, "path": str(root), "language": "de"}


JSON_DOCS = b'{"_id": "d", "docid": "d", "title": null, "text": "D"}\n'
TSV_DOCS = b"d\tD\n"
JUDGED: dict[str, tuple[bytes, bytes, bytes]] = {
    "beir": (b"query-id\tcorpus-id\tscore\nq\td\t1\n", JSON_DOCS, b'{"_id": "q", "text": "Q"}\n'),
    "miracl": (b"q Q0 d 1\n", JSON_DOCS, b"q\tQ\n"),
    "mmarco": (b"q\td\tn\n", TSV_DOCS, b"q\tQ\n"),
}
