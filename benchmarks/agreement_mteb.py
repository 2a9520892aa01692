"""Compare an evaluation with mteb on the same files: an exported encoder must have the same figures in mteb.

mteb loads the run's model as a SentenceTransformer, with the prompts saved in it, and measures each language of a
task by itself, as one subset. The figures are nDCG@10 and R@10 over questions and passages in one language.

    pip install mteb
    hbt evaluate runs/NAME --task xquad-r=lareqa/xquad-r
    python benchmarks/agreement_mteb.py runs/NAME --task xquad-r=lareqa/xquad-r --languages en,ar
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pyarrow as pa
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.tasks import Task, open_task
from hbt_ray.run_dir import RunDir

MEASURES = {"nDCG@10": "ndcg_at_10", "R@10": "recall_at_10"}
TAGS = {
    "ar": "ara-Arab", "de": "deu-Latn", "el": "ell-Grek", "en": "eng-Latn", "es": "spa-Latn", "hi": "hin-Deva",
    "ru": "rus-Cyrl", "th": "tha-Thai", "tr": "tur-Latn", "vi": "vie-Latn", "zh": "zho-Hans",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--languages", default="en")
    options = parser.parse_args()
    languages, run = options.languages.split(","), RunDir(options.run)
    task = open_task(options.task)
    evaluation = EvaluationResult.load(run.result(task.name) / "result.json")
    model = SentenceTransformer(str(run.model), device="cpu")
    found = mteb.evaluate(model, as_mteb(task, languages), cache=None, show_progress_bar=False)
    (result,) = found.task_results
    theirs = {scores["hf_subset"]: scores for scores in result.scores["test"]}
    table = Table("language", "measure", "hbt_ray", "mteb", "difference")
    for language in languages:
        for ours, name in MEASURES.items():
            one, other = evaluation.pairs[language][language][ours], theirs[language][name]
            table.add_row(language, ours, f"{one:.6f}", f"{other:.6f}", f"{one - other:+.6f}")
    Console(width=100).print(table)


def as_mteb(task: Task, languages: list[str]) -> Any:
    """The task as one of mteb, with a subset for each language."""

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"{task.name}-files",
            description="Files of this machine.",
            dataset={"path": "local", "revision": "1"},
            reference=None,
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs={language: [TAGS[language]] for language in languages},
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = {language: {"test": subset(task, language)} for language in languages}
            self.data_loaded = True

    return Local()


def subset(task: Task, language: str) -> dict[str, Any]:
    queries, documents = (
        table.filter(pa.array(np.asarray(table["language"].to_pylist()) == language))
        for table in (task.queries, task.documents)
    )
    asked, held = set(queries["query_id"].to_pylist()), set(documents["doc_id"].to_pylist())
    relevant: dict[str, dict[str, int]] = {}
    for query, document in zip(task.qrels["query_id"].to_pylist(), task.qrels["doc_id"].to_pylist(), strict=True):
        if query in asked and document in held:
            relevant.setdefault(query, {})[document] = 1
    return {
        "corpus": Dataset.from_dict({"id": documents["doc_id"].to_pylist(), "text": documents["text"].to_pylist()}),
        "queries": Dataset.from_dict({"id": queries["query_id"].to_pylist(), "text": queries["text"].to_pylist()}),
        "relevant_docs": relevant,
        "top_ranked": None,
    }


if __name__ == "__main__":
    main()
