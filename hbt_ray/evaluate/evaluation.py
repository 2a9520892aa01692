"""Evaluation: one model on one task, from texts to a saved verdict."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pyarrow.parquet as pq

from hbt_ray.console import Screen
from hbt_ray.evaluate.encode import Encoded, EncoderConfig, encode
from hbt_ray.evaluate.judge import Scorecard, judge
from hbt_ray.evaluate.search import SearchConfig, ShardedIndex
from hbt_ray.evaluate.tasks import Task
from hbt_ray.evaluate.trec import write_qrels, write_run
from hbt_ray.evaluate.verdict import Verdict
from hbt_ray.run import published

PER_QUERY = "queries.parquet"


def evaluate(
    encoder: EncoderConfig,
    task: Task,
    folder: Path,
    *,
    name: str,
    search: SearchConfig | None = None,
    trec_depth: int = 0,
    screen: Screen | None = None,
) -> Verdict:
    """Encode, search, measure; write `verdict.json` and the per-query table into `folder`. Needs a Ray session.

    Args:
        name: what the verdict calls the model.
        trec_depth: also write `run.trec`, so many passages a question from the pool of all languages, and `qrels.trec`.
        screen: told what happens, for progress; by default nobody is.

    Raises:
        ModelError, TaskError, ResourceError: see `encode` and `ShardedIndex`.
    """
    screen = screen or Screen(silent=True)
    begin = time.perf_counter()
    screen.say(f"{task.name}: encoding {task.queries.num_rows:,} questions and {task.documents.num_rows:,} passages")
    with screen.counting(f"{task.name}: encoding", task.queries.num_rows + task.documents.num_rows) as advance:
        encoded = encode(encoder, task.queries["text"].to_pylist(), task.documents["text"].to_pylist(), advance)
    middle = time.perf_counter()
    screen.say(f"{task.name}: searching {len(task.languages)} languages")
    with published(folder) as scratch:
        with ShardedIndex.of_task(task, encoded.passages, search) as index:
            table, card = judge(task, encoded.questions, index)
            end = time.perf_counter()
            if trec_depth:
                hits = index.search(encoded.questions, trec_depth)
                write_run(scratch / "run.trec", task.queries["query_id"].to_pylist(), index.ids, hits, name)
                write_qrels(scratch / "qrels.trec", task)
        verdict = _verdict(name, encoded, card, {"encode": middle - begin, "search": end - middle})
        verdict.save(scratch)
        pq.write_table(table, scratch / PER_QUERY)
    screen.say(
        f"{task.name}: encoded in {middle - begin:,.0f} s, searched in {end - middle:,.1f} s, "
        f"peak memory of a process {verdict.peak_memory_bytes / 2**30:.1f} GiB"
    )
    return verdict


def _verdict(name: str, encoded: Encoded, card: Scorecard, seconds: dict[str, float]) -> Verdict:
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Verdict(
        model=name,
        fingerprint=encoded.fingerprint,
        seconds=seconds,
        peak_memory_bytes=max(encoded.peak_memory_bytes, here),
        **card.fields(),
    )
