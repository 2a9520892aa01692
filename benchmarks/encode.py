"""Encoding on Ray Data beside `SentenceTransformer.encode`: the same model, texts, batch size and threads.

Both sides load the model and encode all texts, and take turns in one Ray session that runs already. The model has
the shape of multilingual-e5-small with random weights, unless `--model` names another. Ours also starts a process for
the model, which takes some six seconds once, so a few hundred texts are not worth it; texts are random words, as long
as SQuAD's paragraphs: log-normal with a median of 120 words. A tenth of them occur twice, as in corpora of parallel
tasks. `--task` takes passages of a task instead, drawn at random: in many scripts the library's batches, sorted by
characters, are a quarter padding. The second row of ours finds the vectors that the first one kept.

    python benchmarks/encode.py [--json] [--texts 4000] [--batch 64] [--rounds 1] [--model FOLDER] [--task worldfacts]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

PEER, OURS, KEPT = "SentenceTransformer.encode", "hbt_ray", "hbt_ray, kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", help="a folder; default: random weights in the shape of e5-small")
    parser.add_argument("--task", help="as `hbt evaluate` takes it; default: random words")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        texts = passages(options.task, options.texts) if options.task else some_texts(options.texts)
        model = options.model or build_model(Path(folder) / "model", texts)
        times = measure(model, texts, options.batch, options.rounds, Path(folder))
    ratio = times[PEER] / times[OURS]
    if options.json:
        print(json.dumps({"seconds": times, "ratio": ratio, **vars(options)}))
        return
    table = Table("side", "texts/s", "times the peer", title=f"{len(texts):,} texts, batches of {options.batch}")
    for side, seconds in times.items():
        table.add_row(side, f"{len(texts) / seconds:,.1f}", f"{times[PEER] / seconds:.2f}")
    Console(width=100).print(table)


def some_texts(num: int) -> list[str]:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), rng.integers(2, 9))) for _ in range(5_000)]
    lengths = np.exp(rng.normal(np.log(120), 0.45, num)).astype(int).clip(5, 300)
    texts = [" ".join(rng.choice(words, length)) for length in lengths]
    return [texts[n] if n % 10 else texts[n - 1] for n in range(num)]  # Every tenth repeats the one before.


def passages(task: str, num: int) -> list[str]:
    from hbt_ray.retrieval.tasks import open_task

    texts: list[str] = open_task(task).documents["text"].to_pylist()
    return [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:num]]


def build_model(folder: Path, texts: list[str]) -> str:
    from hbt_ray.model.build import build_encoder
    from hbt_ray.model.config import ModelConfig

    config = ModelConfig(layers=12, width=384, heads=12, vocabulary=8_000, max_passage_length=256)
    build_encoder(config, texts).save_pretrained(str(folder))
    return str(folder)


def measure(model: str, texts: list[str], batch: int, rounds: int, folder: Path) -> dict[str, float]:
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import EncoderConfig, encode

    config = EncoderConfig(model=model, batch_size=batch)
    times: dict[str, list[float]] = {PEER: [], OURS: [], KEPT: []}
    with session():
        encode(config, [], texts[:1])  # Warm up: the first job of a session starts processes that later ones reuse.
        for number in range(rounds):
            marks = [time.perf_counter()]
            theirs = by_library(model, texts, batch)
            marks.append(time.perf_counter())
            for _ in (OURS, KEPT):
                ours = encode(config, [], texts, cache=folder / f"vectors-{number}").passages
                marks.append(time.perf_counter())
            assert np.abs(ours - theirs).max() < 1e-4
            for side, seconds in zip(times, np.diff(marks), strict=True):
                times[side].append(float(seconds))
    return {side: statistics.median(seconds) for side, seconds in times.items()}


def by_library(model: str, texts: list[str], batch: int) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(os.cpu_count() or 1)
    return SentenceTransformer(model, device="cpu").encode_document(texts, batch_size=batch, normalize_embeddings=True)


if __name__ == "__main__":
    main()
