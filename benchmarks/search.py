"""Sharded exact search beside one FAISS `IndexFlatIP`, and what approximate indexes trade for their speed.

The vectors are clustered unit vectors of the width of multilingual-e5-small. The peer is one flat index in one process
with as many threads as our shards have CPUs in all; both are loaded before the clock runs, and take turns. Ours also
puts every answer in canonical order (ties by document id, scores in float64), which the peer does not.

Approximate indexes run in this process over `--approximate-rows`: recall is the share of the exact first ten that they
find, time is that of a query, and memory is that of FAISS's codes.

    python benchmarks/search.py [--json] [--rows 1000000] [--approximate-rows 200000] [--queries 2000] [--actors 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

PEER, OURS = "IndexFlatIP", "hbt_ray, sharded"
WIDTH, K, ROUNDS = 384, 10, 3
INDEXES = (
    ("Flat", ""),
    ("IVF1024,Flat", "nprobe=16"),
    ("IVF1024,Flat", "nprobe=64"),
    ("HNSW32", "efSearch=64"),
    ("HNSW32", "efSearch=256"),
    ("IVF1024,PQ48", "nprobe=64"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--approximate-rows", type=int, default=200_000, help="0 leaves these out")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--actors", type=int, default=2, help="processes of one CPU each; the peer has as many threads")
    options = parser.parse_args()
    documents, queries = clustered(options.rows, 1), clustered(options.queries, 2)
    exact = measure_exact(documents, queries, options.actors)
    few = documents[: options.approximate_rows]
    approximate = measure_approximate(few, queries, options.actors) if len(few) else []
    ratio = exact[OURS] / exact[PEER]
    if options.json:
        print(json.dumps({"seconds": exact, "ratio": ratio, "approximate": approximate, **vars(options)}))
        return
    title = f"exact: {options.queries:,} queries, {options.rows:,} × {WIDTH} vectors, {options.actors} CPUs"
    table = Table("side", "seconds", "times the peer", title=title)
    for side, seconds in exact.items():
        table.add_row(side, f"{seconds:.2f}", f"{seconds / exact[PEER]:.2f}")
    console = Console(width=100)
    console.print(table)
    if approximate:
        table = Table("index", "search", "recall@10", "ms a query", "MiB", "build, s", title=f"{len(few):,} vectors")
        for row in approximate:
            cells = (f"{row['recall']:.3f}", f"{row['ms']:.2f}", f"{row['mib']:,.0f}", f"{row['build_seconds']:.0f}")
            table.add_row(row["factory"], row["parameters"], *cells)
        console.print(table)


def clustered(num: int, seed: int) -> np.ndarray:
    """Unit vectors [num, WIDTH] around common centres, made block by block."""
    centres = np.random.default_rng(0).standard_normal((2_000, WIDTH), dtype=np.float32)
    rng = np.random.default_rng(seed)
    found = np.empty((num, WIDTH), np.float32)
    for start in range(0, num, 65_536):
        block = found[start : start + 65_536]
        block[:] = centres[rng.integers(0, len(centres), len(block))]
        block += rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return found


def measure_exact(documents: np.ndarray, queries: np.ndarray, actors: int) -> dict[str, float]:
    """Median seconds of each side over rounds, in which the sides take turns."""
    import faiss

    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex

    ids = [f"{number:09d}" for number in range(len(documents))]
    languages = ["en"] * len(documents)
    config = SearchConfig(
        max_rows=-(-len(documents) // actors), num_actors=actors, cpus_per_actor=1, memory_gib=64, chunk_size=1_000
    )
    faiss.omp_set_num_threads(actors)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(documents)
    times: dict[str, list[float]] = {PEER: [], OURS: []}
    with session(), ShardedIndex(ids, languages, documents, config) as index:
        index.search(queries[:1], K)  # Loads the shards.
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            theirs = flat.search(queries, K)[1]
            middle = time.perf_counter()
            ours = index.search(queries, K).documents
            times[PEER].append(middle - begin)
            times[OURS].append(time.perf_counter() - middle)
    differing = (np.sort(theirs, axis=1) != np.sort(ours, axis=1)).any(axis=1).mean()
    assert differing < 0.01, f"{differing:.1%} of the queries have other documents"  # Roundings of float32 may differ.
    return {side: statistics.median(seconds) for side, seconds in times.items()}


def measure_approximate(documents: np.ndarray, queries: np.ndarray, threads: int) -> list[dict[str, Any]]:
    from hbt_ray.retrieval.search.faiss_index import IndexConfig
    from hbt_ray.retrieval.search.shard import VectorShard

    orders = np.arange(len(documents))
    rows: list[dict[str, Any]] = []
    exact = np.empty(0)
    built: dict[str, Any] = {}
    for factory, parameters in INDEXES:
        config = IndexConfig(factory=factory, parameters=parameters)
        begin = time.perf_counter()
        if not config.exact and factory not in built:
            built[factory] = config.build(documents, threads)
        build_seconds = time.perf_counter() - begin
        shard = VectorShard(orders, documents, threads, config, retuned(built.get(factory), parameters))
        shard.search(queries[:1], K)
        begin = time.perf_counter()
        found = shard.search(queries, K)
        seconds = time.perf_counter() - begin
        exact = found if config.exact else exact  # The first of INDEXES is exact.
        shared = [len(np.intersect1d(own, other)) for own, other in zip(exact, found, strict=True)]
        rows.append(
            {
                "factory": factory,
                "parameters": parameters,
                "recall": float(np.mean(shared)) / K,
                "ms": 1_000 * seconds / len(queries),
                "mib": config.bytes_for(len(documents), WIDTH) / 2**20,
                "build_seconds": build_seconds,
            }
        )
    return rows


def retuned(index: Any, parameters: str) -> Any:
    """Set the search parameters of an index in place, and return it."""
    import faiss

    if index is not None and parameters:
        faiss.ParameterSpace().set_index_parameters(index, parameters)
    return index


if __name__ == "__main__":
    main()
