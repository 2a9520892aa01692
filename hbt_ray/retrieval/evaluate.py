"""Evaluation of one system on one task, from texts to a saved result.

    encode questions and passages → transform the vectors → search → score → `result.json` beside

    queries.parquet         one row per query, setting and passage language
    failures.parquet        questions whose first document is wrong, with texts to read
    run.trec, qrels.trec    only with `trec_depth`

`evaluate_task` evaluates an encoder, `evaluate_task_bm25` BM25.
"""

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
from hbt_ray.storage import AnyPath, atomic_folder

MAX_FAILURES_PER_LANGUAGE = 50
MAX_FAILURES = 2000
"""Limit over all languages together."""
MAX_CHARACTERS = 500
"""Longer texts are cut in the table of failures."""
FAILURES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("query_id", "language", "question")),
        ("AP", pa.float64()),
        *((name, pa.string()) for name in ("gold_id", "gold_language", "gold")),
        ("gold_rank", pa.int64()),
        *((name, pa.string()) for name in ("first_id", "first_language", "first")),
    ]
)


def evaluate_task(
    encoder: EncoderConfig,
    task: Task | BitextTask,
    folder: AnyPath,
    *,
    name: str,
    search: SearchConfig | None = None,
    transform: Transform | None = None,
    trec_depth: int = 0,
    cache: Path | None = None,
    screen: Screen | None = None,
) -> EvaluationResult:
    """Encode, search and score; write the result's files into `folder`. Needs a Ray session.

    Args:
        name: name of the model in the result; the variant is appended.
        search: how the corpus is sharded and searched; a bitext does not use it.
        transform: applied to all vectors before they are indexed and searched.
        trec_depth: number of passages per question in `run.trec`, from the pool; 0 writes no TREC files.
        cache: folder that keeps the vectors for the next evaluation.
        screen: shows progress. Default: show none.

    Raises:
        ModelError: the transform was fitted to another encoder; see also `encode`.
        TaskError, ResourceError: see `ShardedIndex` and `score_bitext`.
    """
    screen = screen or Screen(silent=True)
    if variant := variant_of(encoder, transform):
        name = f"{name}+{variant}"
    begin = time.perf_counter()
    # The two sides of a bitext are alike, so both get the prompt of questions, as E5 models need (2212.03533).
    questions, passages = (
        (task.sentences, task.sentences[:0]) if isinstance(task, BitextTask) else (task.queries, task.documents)
    )
    screen.log(f"{task.name}: encoding {questions.num_rows:,} questions and {passages.num_rows:,} passages")
    with screen.progress(f"{task.name}: encoding", questions.num_rows + passages.num_rows) as advance:
        encoded = encode(encoder, questions["text"], passages["text"], advance, cache=cache)
    if transform:
        encoded = _transformed(encoded, transform, questions["language"].to_pylist(), passages["language"].to_pylist())
    middle = time.perf_counter()
    screen.log(f"{task.name}: searching {len(task.languages)} languages")
    with atomic_folder(folder) as scratch:
        if isinstance(task, BitextTask):
            if trec_depth:
                screen.log(f"{task.name}: pairs of languages are searched one by one, so no pool has a TREC run")
            table, card = score_bitext(task, encoded.questions)
        else:
            with ShardedIndex.of_task(task, encoded.passages, search) as index:
                table, card = _score(task, encoded.questions, index, trec_depth, scratch, name)
        return _save(
            scratch, table, card, screen, (begin, middle), encoded.peak_memory_bytes,
            model=name, fingerprint=encoded.fingerprint, variant=variant, headline=list(task.measures),
        )  # fmt: skip


def evaluate_task_bm25(
    task: Task, folder: AnyPath, *, name: str, trec_depth: int = 0, screen: Screen | None = None
) -> EvaluationResult:
    """Evaluate BM25 as `evaluate_task` does an encoder; needs neither a model nor a Ray session.

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
        table, card = _score(task, queries, index, trec_depth, scratch, name)
        return _save(
            scratch, table, card, screen, (begin, middle), model=name, fingerprint=FINGERPRINT,
            headline=list(task.measures),
        )  # fmt: skip


def variant_of(encoder: EncoderConfig, transform: Transform | None) -> str:
    """Transform and precision, if they differ from the saved model, such as `centering+bf16`; else empty."""
    precision = encoder.precision if encoder.precision != "fp32" else ""
    return "+".join(filter(None, [transform.name if transform else "", precision]))


def _transformed(
    encoded: EncodedTexts, transform: Transform, question_languages: list[str], passage_languages: list[str]
) -> EncodedTexts:
    if transform.encoder != encoded.fingerprint:
        raise ModelError(
            f"posthoc {transform.name} was fitted to an encoder with fingerprint {transform.encoder}, this one has "
            f"{encoded.fingerprint}: its weights, prompts or length differ. Run `hbt posthoc` again with the same "
            "model and options",
            code="OTHER_ENCODER",
        )
    return replace(
        encoded,
        questions=transform.apply(encoded.questions, question_languages, QUESTION),
        passages=transform.apply(encoded.passages, passage_languages, PASSAGE),
        # The vectors depend on the encoder and on the transform, so both are in the checksum.
        fingerprint=hashlib.sha256(f"{encoded.fingerprint} {transform.fingerprint}".encode()).hexdigest()[:16],
    )


def _score(
    task: Task, queries: npt.NDArray[Any], index: RankingIndex, trec_depth: int, folder: Path, name: str
) -> tuple[pa.Table, Scorecard]:
    """Per-query table and scorecard; writes the table of failures and the TREC files."""
    # One search, as deep as the bias measures or the TREC run need.
    hits = top_documents(task, queries, index, max(RANKING_DEPTH, trec_depth))
    table, card = score_rankings(task, queries, index, hits.documents)
    failures = collect_failures(task, table, queries, index, hits.documents[:, 0])
    pq.write_table(failures, folder / FAILURES_FILE)
    if trec_depth:
        hits = Hits(hits.documents[:, :trec_depth], hits.scores[:, :trec_depth])
        write_run(folder / "run.trec", task.queries["query_id"].to_pylist(), index.ids, hits, name)
        write_qrels(folder / "qrels.trec", task)
    return table, card


def _save(
    folder: Path,
    table: pa.Table,
    card: Scorecard,
    screen: Screen,
    starts: tuple[float, float],
    peak_memory_bytes: int = 0,
    **fields: Any,
) -> EvaluationResult:
    """Write the per-query table and the result.

    Args:
        starts: begin of encoding and of searching, in seconds of `time.perf_counter`.
        peak_memory_bytes: peak of the encoder's processes; that of this process is added here.
        fields: other fields of the result.
    """
    seconds = {"encode": starts[1] - starts[0], "search": time.perf_counter() - starts[1]}
    memory = max(peak_memory_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    result = EvaluationResult(seconds=seconds, peak_memory_bytes=memory, **fields, **card.fields())
    pq.write_table(table, folder / PER_QUERY_FILE)
    result.save(folder)
    for note in result.notes:
        screen.log(f"{result.task}: {note}")
    screen.log(
        f"{result.task}: encoded in {seconds['encode']:,.1f} s, searched in {seconds['search']:,.1f} s, "
        f"peak memory of a process {memory / 2**30:.1f} GiB"
    )
    return result


def collect_failures(
    task: Task,
    per_query: pa.Table,
    queries: npt.NDArray[Any],
    index: RankingIndex,
    first: npt.NDArray[np.int64],
) -> pa.Table:
    """Questions whose first document is wrong, with texts to read, so that a report needs neither task nor index.

    The questions with the lowest AP in the pool are kept, worst first, at most `MAX_FAILURES_PER_LANGUAGE` per question
    language.

    Args:
        per_query: the table of `score_rankings`.
        queries: one row per query, as the index takes them, in the task's order.
        first: [queries] row of the first document in the pool, see `top_documents`; -1 if nothing was found.

    Returns:
        Columns of `FAILURES_SCHEMA`. Gold is the relevant document with the best rank in the pool; AP is also measured
        in the pool.
    """
    # `score_rankings` writes the rows of the pool in the task's order, so they align with `first`.
    precision = per_query.filter(pc.equal(per_query["setting"], MULTILINGUAL))["AP"].to_numpy()
    # Questions without a relevant document in the corpus are left out: there is no text to show beside the wrong one.
    wrong = (first >= 0) & (task.relevant != first[:, None]).all(axis=1) & (task.relevant >= 0).any(axis=1)
    rows = _worst_queries(precision, np.asarray(task.queries["language"].to_pylist()), wrong)
    relevant = task.relevant[rows]
    languages = np.asarray(task.documents["language"].to_pylist())
    pool_ranks = ranks_excluding(index, queries[rows], relevant, task.own_documents[rows], languages).pool
    # Rank 0 is padding, which must not be the best.
    ranks = np.where(pool_ranks > 0, pool_ranks, np.iinfo(np.int64).max)
    best = ranks.argmin(axis=1)[:, None]
    questions = task.queries.take(pa.array(rows))
    gold, shown = (
        task.documents.take(pa.array(documents))
        for documents in (np.take_along_axis(relevant, best, 1)[:, 0], first[rows])
    )
    columns = [
        *(questions["query_id"], questions["language"], _shorten(questions["text"])),
        pa.array(precision[rows]),
        *(gold["doc_id"], gold["language"], _shorten(gold["text"])),
        pa.array(np.take_along_axis(ranks, best, 1)[:, 0]),
        *(shown["doc_id"], shown["language"], _shorten(shown["text"])),
    ]
    return pa.table(columns, schema=FAILURES_SCHEMA)


def _worst_queries(
    precision: npt.NDArray[np.float64], languages: npt.NDArray[np.str_], wrong: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Rows of queries with a wrong first document, lowest precision first, with an equal limit per language."""
    names = np.unique(languages)
    # All languages share `MAX_FAILURES` equally.
    limit = min(MAX_FAILURES_PER_LANGUAGE, MAX_FAILURES // len(names))
    order = np.argsort(precision, kind="stable")
    order = order[wrong[order]]
    kept = np.concatenate([order[languages[order] == name][:limit] for name in names])
    return np.asarray(kept[np.argsort(precision[kept], kind="stable")], dtype=np.int64)


def _shorten(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    long = pc.greater(pc.utf8_length(texts), MAX_CHARACTERS)
    start = pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(texts, 0, MAX_CHARACTERS))
    return pc.if_else(long, pc.binary_join_element_wise(start, "…", ""), texts)
