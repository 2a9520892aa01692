"""An evaluation of XQuAD-R's size beside a plain NumPy script: the same vectors, the same figures.

Eleven languages, 1,190 questions and 1,183 sentences each, one relevant sentence in every language; random vectors of
width 384, so every rank occurs. The script is what one writes down: all scores by a float32 matrix product, one argsort
a question for the pool and one for each language, average precision and recall from it. Ours starts its shards in the
time that is measured. Both have all cores.

    python benchmarks/evaluate.py [--json] [--questions 1190] [--sentences 1183]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from rich.console import Console
from rich.table import Table

PEER, OURS = "NumPy script", "hbt_ray"
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
WIDTH = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--questions", type=int, default=1_190, help="of each language")
    parser.add_argument("--sentences", type=int, default=1_183, help="of each language")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    asked, found = (
        unit(rng.standard_normal((len(LANGUAGES) * num, WIDTH), dtype=np.float32))
        for num in (options.questions, options.sentences)
    )
    answers = rng.integers(0, options.sentences, options.questions)
    begin = time.perf_counter()
    theirs = by_script(asked, found, answers, options.questions, options.sentences)
    seconds = {PEER: time.perf_counter() - begin}
    ours, seconds[OURS] = by_us(asked, found, answers, options.questions, options.sentences)
    worst = max(abs(theirs[setting] - ours[setting]) for setting in theirs)
    ratio = seconds[PEER] / seconds[OURS]
    if options.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio, "largest_difference": worst, "AP": ours}))
        return
    table = Table("side", "seconds", "times as fast", *(f"{setting} AP" for setting in theirs))
    for side, values in ((PEER, theirs), (OURS, ours)):
        table.add_row(
            side,
            f"{seconds[side]:.1f}",
            f"{seconds[PEER] / seconds[side]:.2f}",
            *(f"{values[setting]:.6f}" for setting in theirs),
        )
    Console(width=120).print(table)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_script(
    asked: np.ndarray, found: np.ndarray, answers: np.ndarray, questions: int, sentences: int
) -> dict[str, float]:
    """Mean average precision of the three settings."""
    num = len(LANGUAGES)
    precision: dict[str, list[float]] = {"monolingual": [], "cross-lingual": [], "multilingual": []}
    recall: list[float] = []
    for own in range(num):
        for question in range(questions):
            scores = found @ asked[own * questions + question]
            gold = answers[question] + sentences * np.arange(num)  # The relevant sentence of each language.
            # Rank of every sentence, from 1.
            place = np.empty(len(scores), np.int64)
            place[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
            ranks = np.sort(place[gold])
            precision["multilingual"].append(float(np.mean(np.arange(1, num + 1) / ranks)))
            recall.append(float((ranks <= 10).mean()))
            for other in range(num):
                part = scores[other * sentences : (other + 1) * sentences]
                order = np.argsort(-part, kind="stable")
                rank = int(np.flatnonzero(order == answers[question])[0]) + 1
                precision["monolingual" if own == other else "cross-lingual"].append(1 / rank)
    return {setting: float(np.mean(values)) for setting, values in precision.items()}


def by_us(
    asked: np.ndarray, found: np.ndarray, answers: np.ndarray, questions: int, sentences: int
) -> tuple[dict[str, float], float]:
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.score import score_rankings
    from hbt_ray.retrieval.search.sharded_index import ShardedIndex
    from hbt_ray.retrieval.tasks import Task

    documents = [(f"{tag}_{n}", tag, f"sentence {n}") for tag in LANGUAGES for n in range(sentences)]
    queries = [(f"{tag}_q{n}", tag, f"question {n}") for tag in LANGUAGES for n in range(questions)]
    qrels = [
        (f"{tag}_q{n}", f"{other}_{answers[n]}") for tag in LANGUAGES for n in range(questions) for other in LANGUAGES
    ]
    task = Task.from_rows("random", documents, queries, qrels)
    with session():
        begin = time.perf_counter()
        with ShardedIndex.of_task(task, found) as index:
            _, card = score_rankings(task, asked, index)
        seconds = time.perf_counter() - begin
    return {setting: values["AP"] for setting, values in card.settings.items()}, seconds


if __name__ == "__main__":
    main()
