"""Compare a result with sentence-transformers' own evaluators on the same model, files and prompts: they must agree.

The peer encodes every text itself, and measures with its `InformationRetrievalEvaluator` (a language by itself, and the
pool) and `TranslationEvaluator`. Measures are those that a task of the suite names, as far as the peer has them: AP@k,
nDCG@k, R@k, RR@k and, for bitexts, R@1 by nearest neighbour. Evaluate first, with the same prompts and length:

    hbt evaluate MODEL --suite SUITE.yaml name=NAME
    python benchmarks/agreement.py MODEL runs/NAME --suite SUITE.yaml [--json] [--question-prompt …]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator, TranslationEvaluator

from hbt_ray.retrieval.measures import parse_measure
from hbt_ray.retrieval.result import MONOLINGUAL, MULTILINGUAL, EvaluationResult
from hbt_ray.retrieval.tasks import BitextTask, Suite, Task
from hbt_ray.run_dir import RunDir

THEIRS = {"AP": "map_at_k", "nDCG": "ndcg_at_k", "R": "precision_recall_at_k", "RR": "mrr_at_k"}
WORDS = {"AP": "map", "nDCG": "ndcg", "R": "recall", "RR": "mrr"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("run", type=Path)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--question-prompt")
    parser.add_argument("--passage-prompt")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = SentenceTransformer(options.model, device="cpu")
    for name, prompt in (("query", options.question_prompt), ("document", options.passage_prompt)):
        if prompt is not None:
            model.prompts[name] = prompt
    model.max_seq_length = options.max_length or model.max_seq_length
    rows = []
    for task in Suite.load(options.suite).open():
        begin = time.perf_counter()
        result = EvaluationResult.load(RunDir(options.run).result(task.name) / "result.json")
        measure = translated if isinstance(task, BitextTask) else retrieved
        for setting, name, theirs in measure(model, task):
            ours = result.settings[setting][name]
            rows.append({"task": task.name, "setting": setting, "measure": name, "ours": ours, "theirs": theirs})
        seconds = {"ours": sum(result.seconds.values()), "theirs": time.perf_counter() - begin}
        rows[-1]["seconds"] = seconds
        if not options.json:
            show([row for row in rows if row["task"] == task.name])
    if options.json:
        print(json.dumps(rows))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of a task as soon as it is measured, since the next may take long."""
    table = Table("task", "setting", "measure", "hbt_ray", "sentence-transformers", "difference")
    for row in rows:
        figures = (f"{row['ours']:.6f}", f"{row['theirs']:.6f}", f"{row['ours'] - row['theirs']:+.6f}")
        table.add_row(row["task"], row["setting"], row["measure"], *figures)
    Console(width=120).print(table)


def retrieved(model: Any, task: Task) -> Iterator[tuple[str, str, float]]:
    """Setting, measure and value of a task with queries and documents."""
    remember(model, "encode_query", task.queries["text"].to_pylist())
    remember(model, "encode_document", task.documents["text"].to_pylist())
    names = [name for name in task.measures if parse_measure(name)[1] and parse_measure(name)[0] in THEIRS]
    asked, held = (np.array(table["language"].to_pylist()) for table in (task.queries, task.documents))
    languages = sorted(set(asked.tolist()) & set(held.tolist()))
    alone = [by_evaluator(model, task, names, asked == tag, held == tag) for tag in languages]
    pooled = [by_evaluator(model, task, names, asked == tag, held != "") for tag in np.unique(asked).tolist()]
    for setting, found in ((MONOLINGUAL, alone), (MULTILINGUAL, pooled)):
        for name in names:
            yield setting, name, float(np.mean([values[name] for values in found]))


def by_evaluator(model: Any, task: Task, names: Sequence[str], asked: Any, held: Any) -> dict[str, float]:
    """Measure → value by the peer's evaluator, over some queries and documents.

    Args:
        asked: [queries] bool.
        held: [documents] bool.
    """
    queries, documents = (
        dict(
            zip(
                table.filter(pa.array(rows))[key].to_pylist(),
                table.filter(pa.array(rows))["text"].to_pylist(),
                strict=True,
            )
        )
        for table, rows, key in ((task.queries, asked, "query_id"), (task.documents, held, "doc_id"))
    )
    relevant: dict[str, set[str]] = {}
    for query, document in zip(task.qrels["query_id"].to_pylist(), task.qrels["doc_id"].to_pylist(), strict=True):
        if document in documents:
            relevant.setdefault(query, set()).add(document)
    # Measures that are not compared keep a cutoff of 1, the cheapest.
    cutoffs: dict[str, list[int]] = {"accuracy_at_k": [1], **{option: [1] for option in THEIRS.values()}}
    for name in names:
        cutoffs[THEIRS[parse_measure(name)[0]]] = [*cutoffs[THEIRS[parse_measure(name)[0]]], parse_measure(name)[1]]
    evaluator = InformationRetrievalEvaluator(queries, documents, relevant, **cutoffs)
    found = evaluator(model)
    return {name: found[f"cosine_{WORDS[parse_measure(name)[0]]}@{parse_measure(name)[1]}"] for name in names}


def translated(model: Any, task: BitextTask) -> Iterator[tuple[str, str, float]]:
    """Setting, measure and value of a bitext, whose sentences are all encoded as questions."""
    sentences = task.sentences["text"].to_pylist()
    remember(model, "encode_query", sentences)
    model.encode = lambda texts, **_: list(model.encode_query(texts))  # The evaluator expects a list.
    found = []
    for pair in task.pairs:
        sides = ([sentences[row] for row in rows] for rows in (pair.source_rows, pair.target_rows))
        accuracies = TranslationEvaluator(*sides, batch_size=64)(model)
        found.append(accuracies["src2trg_accuracy"])
        if task.both_ways:
            found.append(accuracies["trg2src_accuracy"])
    del model.encode
    yield "cross-lingual", "R@1", float(np.mean(found))


def remember(model: Any, method: str, texts: list[str]) -> None:
    """Replace a method of the model by a look-up of vectors that the method has encoded once."""
    encode: Callable[..., Any] = getattr(type(model), method).__get__(model)
    distinct = list(dict.fromkeys(texts))
    vectors = encode(distinct, batch_size=64, convert_to_tensor=True, show_progress_bar=False)
    row = {text: number for number, text in enumerate(distinct)}

    def again(wanted: Sequence[str], **_: Any) -> Any:
        return vectors[[row[text] for text in wanted]]

    setattr(model, method, again)


if __name__ == "__main__":
    main()
