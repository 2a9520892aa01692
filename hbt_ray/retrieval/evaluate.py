"""Evaluation: one system on one task, from texts to a saved result."""

from __future__ import annotations

import hashlib
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hbt_ray.console import Screen
from hbt_ray.errors import ModelError
from hbt_ray.retrieval.bias import RANKING_DEPTH
from hbt_ray.retrieval.bm25 import FINGERPRINT, Bm25Index, tokenise_queries
from hbt_ray.retrieval.encoder import EncodedTexts, EncoderConfig, encode
from hbt_ray.retrieval.result import FAILURES_FILE, MULTILINGUAL, PER_QUERY_FILE, EvaluationResult
from hbt_ray.retrieval.score import Scorecard, score_bitext, score_rankings, top_documents
from hbt_ray.retrieval.search.ranking import Hits, RankingIndex, ranks_excluding
from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex
from hbt_ray.retrieval.tasks import BitextTask, Task
from hbt_ray.retrieval.transforms import Transform
from hbt_ray.retrieval.transforms.methods import PASSAGE, QUESTION
from hbt_ray.retrieval.trec import write_qrels, write_run
from hbt_ray.storage import atomic_folder


def evaluate_task(
    encoder: EncoderConfig,
    task: Task | BitextTask,
    folder: Path,
    *,
    name: str,
    search: SearchConfig | None = None,
    fix: Transform | None = None,
    trec_depth: int = 0,
    cache: Path | None = None,
    screen: Screen | None = None,
) -> EvaluationResult:
    """Encode, search, measure; write `result.json` and its evidence into `folder`. Needs a Ray session.

    Args:
        name: what the result calls the model; the variant is added to it.
        search: how a corpus is cut and asked; a bitext has none.
        fix: what vectors go through before they are indexed and asked.
        trec_depth: also write `run.trec`, so many passages a question from the pool of all languages, and `qrels.trec`.
        cache: a folder where vectors of texts are kept for the next time.
        screen: told what happens, for progress; by default nobody is.

    Raises:
        ModelError: the fix was fitted to another encoder, or see `encode`.
        TaskError, ResourceError: see `ShardedIndex` and `score_bitext`.
    """
    screen = screen or Screen(silent=True)
    if variant := variant_of(encoder, fix):
        name = f"{name}+{variant}"
    begin = time.perf_counter()
    asked, found = _sides(task)
    screen.log(f"{task.name}: encoding {asked.num_rows:,} questions and {found.num_rows:,} passages")
    with screen.progress(f"{task.name}: encoding", asked.num_rows + found.num_rows) as advance:
        encoded = encode(encoder, asked["text"], found["text"], advance, cache=cache)
    if fix:
        encoded = _fixed(encoded, fix, asked["language"].to_pylist(), found["language"].to_pylist())
    middle = time.perf_counter()
    screen.log(f"{task.name}: searching {len(task.languages)} languages")
    with atomic_folder(folder) as scratch:
        if isinstance(task, BitextTask):
            if trec_depth:
                screen.log(f"{task.name}: pairs of languages are searched one by one, so no pool has a TREC run")
            table, card = score_bitext(task, encoded.questions)
        else:
            with ShardedIndex.of_task(task, encoded.passages, search) as index:
                table, card = _ranked(task, encoded.questions, index, trec_depth, scratch, name)
        end = time.perf_counter()
        result = EvaluationResult(
            model=name,
            fingerprint=encoded.fingerprint,
            variant=variant,
            headline=list(task.measures),
            seconds={"encode": middle - begin, "search": end - middle},
            peak_memory_bytes=max(encoded.peak_memory_bytes, _peak_memory()),
            **card.fields(),
        )
        _save(result, table, scratch)
    _say_what_is_odd(screen, result)
    screen.log(
        f"{task.name}: encoded in {middle - begin:,.0f} s, searched in {end - middle:,.1f} s, "
        f"peak memory of a process {result.peak_memory_bytes / 2**30:.1f} GiB"
    )
    return result


def evaluate_task_bm25(
    task: Task, folder: Path, *, name: str, trec_depth: int = 0, screen: Screen | None = None
) -> EvaluationResult:
    """The same for BM25, which needs neither model nor Ray session; for the arguments see `evaluate_task`.

    Raises:
        ConfigError: the extra `bm25` is not installed.
    """
    screen = screen or Screen(silent=True)
    begin = time.perf_counter()
    screen.log(f"{task.name}: reading the words of {task.documents.num_rows:,} passages")
    index, queries = Bm25Index.of_task(task), tokenise_queries(task.queries)
    middle = time.perf_counter()
    screen.log(f"{task.name}: searching {len(task.languages)} languages")
    with atomic_folder(folder) as scratch:
        table, card = _ranked(task, queries, index, trec_depth, scratch, name)
        seconds = {"encode": middle - begin, "search": time.perf_counter() - middle}
        result = EvaluationResult(
            model=name,
            fingerprint=FINGERPRINT,
            headline=list(task.measures),
            seconds=seconds,
            peak_memory_bytes=_peak_memory(),
            **card.fields(),
        )
        _save(result, table, scratch)
    _say_what_is_odd(screen, result)
    screen.log(f"{task.name}: read in {seconds['encode']:,.1f} s, searched in {seconds['search']:,.1f} s")
    return result


def _say_what_is_odd(screen: Screen, result: EvaluationResult) -> None:
    for note in result.notes:
        screen.log(f"{result.task}: {note}")


def variant_of(encoder: EncoderConfig, fix: Transform | None) -> str:
    """What distinguishes this way to run the model from the one in which it is saved; empty if nothing does."""
    return "+".join(filter(None, [fix.name if fix else "", encoder.precision if encoder.precision != "fp32" else ""]))


def _sides(task: Task | BitextTask) -> tuple[pa.Table, pa.Table]:
    """What is encoded as questions, and what as passages.

    The sides of a bitext are alike, so both are questions, as the E5 models want it (2212.03533).
    """
    if isinstance(task, BitextTask):
        return task.sentences, task.sentences.slice(0, 0)
    return task.queries, task.documents


def _ranked(
    task: Task, queries: npt.NDArray[Any], index: RankingIndex, trec_depth: int, folder: Path, name: str
) -> tuple[pa.Table, Scorecard]:
    """Per-query table and scorecard; failures to read in the folder, and TREC files where they are wanted."""
    hits = top_documents(task, queries, index, max(RANKING_DEPTH, trec_depth))
    judged = score_rankings(task, queries, index, hits.documents)
    shown = collect_failures(task, judged[0], queries, index, hits.documents[:, 0])
    pq.write_table(shown, folder / FAILURES_FILE)
    if trec_depth:
        hits = Hits(hits.documents[:, :trec_depth], hits.scores[:, :trec_depth])
        write_run(folder / "run.trec", task.queries["query_id"].to_pylist(), index.ids, hits, name)
        write_qrels(folder / "qrels.trec", task)
    return judged


def _save(result: EvaluationResult, table: pa.Table, folder: Path) -> None:
    pq.write_table(table, folder / PER_QUERY_FILE)
    result.save(folder)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fixed(encoded: EncodedTexts, fix: Transform, asked: list[str], found: list[str]) -> EncodedTexts:
    if fix.encoder != encoded.fingerprint:
        raise ModelError(
            f"posthoc {fix.name} was fitted to an encoder with fingerprint {fix.encoder}, this one has "
            f"{encoded.fingerprint}: its weights, prompts or length are others. Run `hbt posthoc` again with the same "
            "model and options"
        )
    return replace(
        encoded,
        questions=fix.apply(encoded.questions, asked, QUESTION),
        passages=fix.apply(encoded.passages, found, PASSAGE),
        fingerprint=hashlib.sha256(f"{encoded.fingerprint} {fix.fingerprint}".encode()).hexdigest()[:16],
    )


MAX_FAILURES_PER_LANGUAGE = 50
MAX_FAILURES = 2000
"""Of all languages together."""
MAX_CHARACTERS = 500
"""Of a text."""
FAILURES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("query_id", "language", "question")),
        ("AP", pa.float64()),
        *((name, pa.string()) for name in ("gold_id", "gold_language", "gold")),
        ("gold_rank", pa.int64()),
        *((name, pa.string()) for name in ("first_id", "first_language", "first")),
    ]
)


def collect_failures(
    task: Task,
    per_query: pa.Table,
    queries: npt.NDArray[Any],
    index: RankingIndex,
    first: npt.NDArray[np.int64],
) -> pa.Table:
    """The failures with the lowest AP in the pool, at most
    `MAX_FAILURES_PER_LANGUAGE` of each question language, worst first.

    Args:
        per_query: the table of `judge`.
        queries: the task's, as the index takes them.
        first: [queries] the row of the first document in the pool, see `top_documents`; -1 where nothing was found.

    Returns:
        Columns of `FAILURES_SCHEMA`. The gold is the relevant document with the best rank in the pool; AP is that of
        the pool.
    """
    precision = per_query.filter(pc.equal(per_query["setting"], MULTILINGUAL))["AP"].to_numpy()
    # Without a right document in the corpus there is no text to show beside the wrong one.
    wrong = (first >= 0) & (task.relevant != first[:, None]).all(axis=1) & (task.relevant >= 0).any(axis=1)
    rows = _worst(precision, np.asarray(task.queries["language"].to_pylist()), wrong)
    relevant = task.relevant[rows]
    languages = np.asarray(task.documents["language"].to_pylist())
    places = ranks_excluding(index, queries[rows], relevant, task.own_documents[rows], languages).pool
    ranks = np.where(places > 0, places, np.iinfo(np.int64).max)
    best = ranks.argmin(axis=1)[:, None]
    asked = task.queries.take(pa.array(rows))
    gold, shown = (
        task.documents.take(pa.array(found)) for found in (np.take_along_axis(relevant, best, 1)[:, 0], first[rows])
    )
    columns = [
        *(asked["query_id"], asked["language"], _cut(asked["text"])),
        pa.array(precision[rows]),
        *(gold["doc_id"], gold["language"], _cut(gold["text"])),
        pa.array(np.take_along_axis(ranks, best, 1)[:, 0]),
        *(shown["doc_id"], shown["language"], _cut(shown["text"])),
    ]
    return pa.table(columns, schema=FAILURES_SCHEMA)


def _worst(
    precision: npt.NDArray[np.float64], asked: npt.NDArray[np.str_], wrong: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Rows of queries, by precision, with no language above its share."""
    names = np.unique(asked)
    share = min(MAX_FAILURES_PER_LANGUAGE, MAX_FAILURES // len(names))
    order = np.argsort(precision, kind="stable")
    order = order[wrong[order]]
    kept = np.concatenate([order[asked[order] == name][:share] for name in names])
    return np.asarray(kept[np.argsort(precision[kept], kind="stable")], dtype=np.int64)


def _cut(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    long = pc.greater(pc.utf8_length(texts), MAX_CHARACTERS)
    cut = pc.binary_join_element_wise(
        pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(texts, 0, MAX_CHARACTERS)), "…", ""
    )
    return pc.if_else(long, cut, texts)
