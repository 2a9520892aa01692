"""One shard, without Ray, finds what brute force finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.retrieval.search.exact_scores import ranking_keys
from hbt_ray.retrieval.search.shard import VectorShard
from tests.retrieval.corpora import DIM, all_scores, vectors


@pytest.mark.parametrize("kind", ["ties", "float", "same", "cancel"])
@pytest.mark.parametrize(("k", "by_faiss"), [(1, True), (10, True), (100, False), (5000, False)])
def test_shard_search_equals_brute_force(kind: str, k: int, by_faiss: bool) -> None:
    documents, queries = vectors(kind, 3000, 1), vectors(kind, 40, 2)
    orders = np.arange(0, 9000, 3)
    shard = VectorShard(orders, documents)
    keys = np.sort(ranking_keys(all_scores(queries, documents), orders), axis=1)[:, ::-1]
    assert np.array_equal(shard.search(queries, k), keys[:, :k])
    assert ("_faiss" in vars(shard)) == by_faiss, "the other way of searching was tested"


def test_faiss_is_trusted_where_scores_are_apart_and_only_there() -> None:
    apart = vectors("ties", 3000, 1) * np.float32(0.01)
    apart[:40] = np.eye(40, DIM, dtype=np.float32) * np.linspace(1, 2, 40, dtype=np.float32)[:, None]
    assert VectorShard(np.arange(3000), apart)._candidates(apart[:5], 1, 17)[1].all()
    same = vectors("same", 3000, 1)
    assert not VectorShard(np.arange(3000), same)._candidates(same[:5], 1, 17)[1].any()


@pytest.mark.parametrize("kind", ["ties", "float", "same"])
@pytest.mark.parametrize("num", [1, 7, 2048, 5000])  # one block is 2048
def test_shard_preceding_equals_brute_force(kind: str, num: int) -> None:
    documents, queries = vectors(kind, num, 1), vectors(kind, 20, 2)
    orders = np.arange(0, 2 * num, 2)
    # Targets: documents of this shard, of another one with the same vectors, and scores that nothing has.
    scores = np.hstack(
        [all_scores(queries, documents[:3]), all_scores(queries, documents[-2:]), np.full((20, 2), 99, "f4")]
    )
    targets = np.hstack([orders[:3], orders[-2:] + 1, [0, 1]])[: scores.shape[1]]
    own = all_scores(queries, documents)[:, None, :]
    expected = (own > scores[:, :, None]) | ((own == scores[:, :, None]) & (orders > targets[:, None]))
    counts = VectorShard(orders, documents).count_preceding(queries, ranking_keys(scores, targets))
    assert np.array_equal(counts, expected.sum(axis=2))


def test_a_shard_on_disk_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    """A process of its own: what a process took at its peak is never given back."""
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((150_000, 384), dtype=np.float32))
    script = (
        "import sys, resource, numpy as np; from pathlib import Path\n"
        "from hbt_ray.retrieval.search.shard import VectorShard\n"
        "from hbt_ray.retrieval.vectors import VectorFile\n"
        "vectors = VectorFile(Path(sys.argv[1])); queries = vectors[:8]\n"
        "VectorShard(np.arange(4_096), vectors[:4_096]).search(queries, 10)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak(); keys = VectorShard(np.arange(len(vectors)), vectors).search(queries, 10)\n"
        "assert (keys[:, 0] & 0xFFFFFFFF).tolist() == list(range(8))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "vectors.npy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40  # MiB, of a corpus of 220.
