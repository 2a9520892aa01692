"""Sharded search is one flat index, to the last rank. The oracle scores every pair by definition and sorts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.errors import ConfigError, HbtError, ResourceError, TaskError
from hbt_ray.evaluate.approximate import IndexConfig, on_device
from hbt_ray.evaluate.memory import Keeping, keeping
from hbt_ray.evaluate.scores import (
    checked_vectors,
    key_orders,
    key_scores,
    pair_scores,
    ranking_keys,
    score_matrix,
)
from hbt_ray.evaluate.search import SearchConfig, ShardedIndex
from hbt_ray.evaluate.shard import Shard

DIM = 12


def score_by_definition(query: np.ndarray, document: np.ndarray) -> np.float32:
    """One pair in plain Python, whose floats are float64: fold the right half onto the left one until one is left."""
    terms = [float(q) * float(d) for q, d in zip(query, document, strict=True)]
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        terms = [a + b for a, b in zip(terms[:half], [*terms[half:], -0.0], strict=False)]
    return np.float32(terms[0])


def all_scores(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    query, document = np.indices((len(queries), len(documents))).reshape(2, -1)
    return pair_scores(queries, documents, query, document).reshape(len(queries), len(documents))


def vectors(kind: str, num: int, seed: int) -> np.ndarray:
    """`ties`: few values, so that most scores occur many times; `same`: all alike; `float`: no ties, close scores.

    `cancel`: two large terms nearly cancel, so that the order by float32 scores is far from the true one.
    """
    rng = np.random.default_rng(seed)
    if kind == "cancel":
        found = rng.standard_normal((num, DIM)) * 0.1
        found[:, 0] = 1000 * rng.uniform(1, 2, num)
        found[:, 1] = found[:, 0] if seed == 1 else -found[:, 0]
        return found.astype(np.float32)
    if kind == "ties":
        return rng.integers(-1, 2, (num, DIM)).astype(np.float32) / 2
    if kind == "same":
        return np.full((num, DIM), 0.3, dtype=np.float32)
    found = rng.standard_normal((num, DIM)) * 0.01 + 1
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def flat_ranking(ids: list[str], queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All documents of every query by (score, id), both descending: rows and scores, [n, m]."""
    scores = all_scores(queries, documents)
    rows = [sorted(range(len(ids)), key=lambda d, own=own: (own[d], ids[d]), reverse=True) for own in scores]
    return np.array(rows), np.take_along_axis(scores, np.array(rows), axis=1)


def corpus(kind: str, num: int, num_languages: int) -> tuple[list[str], list[str], np.ndarray]:
    """Ids whose order is neither that of the rows nor that of numbers; languages of unequal size, mixed."""
    rng = np.random.default_rng(num_languages)
    tags = np.array(["ar", "de", "en", "th", "zh"])[:num_languages]
    languages = [*tags, *rng.choice(tags, num - num_languages, p=np.arange(1, num_languages + 1) / tri(num_languages))]
    return [f"{rng.integers(10)}é{i}" for i in range(num)], [str(tag) for tag in languages], vectors(kind, num, 1)


def tri(num: int) -> int:
    return num * (num + 1) // 2


# --- scores and keys


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_pair_scores_are_the_definition(dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Of very different sizes, so that the order of adding shows.
    queries, documents = (rng.standard_normal((2, 3, dim)) * 10.0 ** rng.integers(-9, 9, (2, 3, dim))).astype("f4")
    expected = [score_by_definition(q, d) for q, d in zip(queries, documents, strict=True)]
    assert pair_scores(queries, documents, np.arange(3), np.arange(3)).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_score_matrix_is_canonical_in_every_shape(num: int, num_documents: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries = (rng.standard_normal((num, dim)) * 10.0 ** rng.integers(-9, 9, (num, dim))).astype(np.float32)
    documents = (rng.standard_normal((num_documents, dim)) * 10.0 ** rng.integers(-9, 9, (1, dim))).astype(np.float32)
    whole = score_matrix(queries, documents)
    assert np.array_equal(whole, all_scores(queries, documents))
    some = rng.permutation(num_documents)[: num_documents // 2 + 1]
    assert np.array_equal(score_matrix(queries[:1], documents[some]), whole[:1, some])


def test_scores_between_two_floats_are_rounded_by_the_definition() -> None:
    half_step = 2.0**-24  # 1 + half_step lies in the middle between two float32 numbers
    queries = np.array([[1, half_step, 2.0**-60, -(2.0**-60)], [1, half_step, 2.0**-50, 0]], dtype=np.float32)
    documents = np.ones((1, 4), dtype=np.float32)
    assert score_matrix(queries, documents)[:, 0].tolist() == [1.0, 1.0 + 2.0**-23]
    assert [score_by_definition(query, documents[0]) for query in queries] == [1.0, 1.0 + 2.0**-23]


def test_score_matrix_does_not_inherit_the_order_in_which_blas_adds() -> None:
    rng = np.random.default_rng(0)
    # Alone, each of the four is lost beside 1; where they meet first, they lift the sum past the middle of two floats.
    terms = np.array([1, 2.0**-24] + [2.0**-54] * 4 + [0] * 58, dtype=np.float32)
    queries, documents = np.stack([rng.permutation(terms) for _ in range(300)]), np.ones((20, 64), dtype=np.float32)
    exact = all_scores(queries, documents)
    assert (exact != (queries.astype(np.float64) @ documents.T.astype(np.float64)).astype(np.float32)).any()
    assert np.array_equal(score_matrix(queries, documents), exact)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2**32 - 1)), min_size=1, max_size=30))
def test_keys_sort_by_score_then_order_and_hold_both(entries: list[tuple[float, int]]) -> None:
    scores, orders = np.array([s for s, _ in entries], np.float32), np.array([o for _, o in entries], np.int64)
    keys = ranking_keys(scores, orders)
    assert np.array_equal(key_scores(keys), scores)
    assert np.array_equal(key_orders(keys), orders)
    by_key = [entries[i] for i in np.argsort(keys, kind="stable")]
    assert by_key == sorted(entries), "-0.0 must tie with 0.0"


def test_vectors_without_meaning_are_refused() -> None:
    for value in (np.nan, np.inf, -np.inf, 1e19, 1e300):
        broken = np.ones((4, 3))
        broken[2, 1] = value
        with pytest.raises(TaskError, match=r"1 of 4 vectors hold NaN, infinity .* the first is that of row 2"):
            checked_vectors(broken, lambda row: f"row {row}")
    with pytest.raises(TaskError, match=r"shape \[4, 3\], expected \[n, 5\]"):
        checked_vectors(np.ones((4, 3)), lambda row: f"row {row}", dim=5)
    with pytest.raises(TaskError, match=r"shape \[3\]"):
        checked_vectors(np.ones(3), lambda row: f"row {row}")


# --- one shard, without Ray


@pytest.mark.parametrize("kind", ["ties", "float", "same", "cancel"])
@pytest.mark.parametrize(("k", "by_faiss"), [(1, True), (10, True), (100, False), (5000, False)])
def test_shard_search_equals_brute_force(kind: str, k: int, by_faiss: bool) -> None:
    documents, queries = vectors(kind, 3000, 1), vectors(kind, 40, 2)
    orders = np.arange(0, 9000, 3)
    shard = Shard(orders, documents)
    keys = np.sort(ranking_keys(all_scores(queries, documents), orders), axis=1)[:, ::-1]
    assert np.array_equal(shard.search(queries, k), keys[:, :k])
    assert ("_faiss" in vars(shard)) == by_faiss, "the other way of searching was tested"


def test_faiss_is_trusted_where_scores_are_apart_and_only_there() -> None:
    apart = vectors("ties", 3000, 1) * np.float32(0.01)
    apart[:40] = np.eye(40, DIM, dtype=np.float32) * np.linspace(1, 2, 40, dtype=np.float32)[:, None]
    assert Shard(np.arange(3000), apart)._candidates(apart[:5], 1, 17)[1].all()
    same = vectors("same", 3000, 1)
    assert not Shard(np.arange(3000), same)._candidates(same[:5], 1, 17)[1].any()


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
    counts = Shard(orders, documents).preceding(queries, ranking_keys(scores, targets))
    assert np.array_equal(counts, expected.sum(axis=2))


# --- shards in actors


@pytest.fixture
def index_of(ray_session: None) -> Iterator[Callable[..., ShardedIndex]]:
    """Makes indexes and closes them after the test."""
    made: list[ShardedIndex] = []

    def make(*arguments: Any, **options: Any) -> ShardedIndex:
        made.append(ShardedIndex(*arguments, SearchConfig(**options)))
        return made[-1]

    yield make
    for index in made:
        index.close()


@pytest.mark.parametrize("kind", ["ties", "float"])
@pytest.mark.parametrize(
    ("num_languages", "options"),
    [(1, {}), (2, {"num_actors": 2}), (3, {"num_actors": 1}), (5, {"chunk_size": 7}), (3, {"max_rows": 40})],
)
def test_sharded_equals_flat(
    index_of: Callable[..., ShardedIndex], kind: str, num_languages: int, options: dict[str, int]
) -> None:
    ids, languages, documents = corpus(kind, 200, num_languages)
    queries = vectors(kind, 30, 2)
    index = index_of(ids, languages, documents, **options)
    rows, scores = flat_ranking(ids, queries, documents)
    for k in (1, 10, 200, 300):
        hits = index.search(queries, k)
        assert np.array_equal(hits.documents, rows[:, :k])
        assert np.array_equal(hits.scores, scores[:, :k])

    some = sorted({"ar", languages[-1]})
    inside = np.isin(np.array(languages)[rows], some)
    expected = [own[keep] for own, keep in zip(rows, inside, strict=True)]
    assert np.array_equal(index.search(queries, 200, some).documents, expected)

    targets = np.random.default_rng(3).integers(-1, 200, (30, 4))
    position = np.argsort(rows, axis=1)
    for language, counts in zip(index.languages, index.preceding(queries, targets), strict=True):
        member = np.array(languages) == language
        for (query, column), target in np.ndenumerate(targets):
            before = member & (position[query] < position[query, target]) if target >= 0 else member & False
            assert counts[query, column] == before.sum()


def test_large_languages_are_cut_and_small_ones_share_a_process(index_of: Callable[..., ShardedIndex]) -> None:
    ids, _, documents = corpus("ties", 200, 2)
    index = index_of(ids, ["de"] * 150 + ["en"] * 50, documents, max_rows=60, num_actors=2)
    assert sorted(part.language for part in index._parts) == ["de", "de", "de", "en"]
    assert [sum(part.actor is actor for part in index._parts) for actor in index._actors()] == [2, 2]


def arm(index: ShardedIndex, method: str, at_call: int) -> None:
    """Make the first actor's first shard kill its process (SIGKILL) when it is asked for the `at_call`-th time."""

    def trap(group: Any) -> None:
        import os
        import signal

        shard, calls = group._shards[0], []
        ask = getattr(shard, method)

        def counted(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return ask(*arguments)

        setattr(shard, method, counted)

    ray.get(index._parts[0].actor._actor.__ray_call__.remote(trap))


def test_a_killed_shard_is_rebuilt_and_the_answer_is_the_same(
    index_of: Callable[..., ShardedIndex], caplog: pytest.LogCaptureFixture
) -> None:
    ids, languages, documents = corpus("ties", 200, 3)
    queries = vectors("ties", 50, 2)
    targets = np.random.default_rng(3).integers(0, 200, (50, 2))
    index = index_of(ids, languages, documents, chunk_size=5, num_actors=2)
    whole, counts = index.search(queries, 20), index.preceding(queries, targets)
    assert np.array_equal(whole.documents, flat_ranking(ids, queries, documents)[0][:, :20])

    arm(index, "search", at_call=4)
    with caplog.at_level(logging.WARNING):
        again = index.search(queries, 20)
    assert np.array_equal(again.documents, whole.documents)
    assert np.array_equal(again.scores, whole.scores)
    assert caplog.text.count("starting it again, 1 of 3 times") == 1

    arm(index, "preceding", at_call=7)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(index.preceding(queries, targets), counts)
    assert caplog.text.count("starting it again, 2 of 3 times") == 1

    ray.kill(index._parts[-1].actor._actor)  # between two searches
    assert np.array_equal(index.search(queries, 20).documents, whole.documents)


def test_a_shard_that_keeps_dying_ends_the_search(index_of: Callable[..., ShardedIndex]) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    index = index_of(ids, languages, documents, num_actors=1, max_rebuilds=0)
    arm(index, "search", at_call=1)
    with pytest.raises(
        HbtError, match=r"shard actor 0 \(de 12, ar 8\) died \(was started again 0 times\).*lower search"
    ):
        index.search(documents, 3)


def test_close_ends_the_processes(index_of: Callable[..., ShardedIndex]) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    with index_of(ids, languages, documents, num_actors=2) as index:
        pids = [ray.get(a._actor.__ray_call__.remote(lambda group: __import__("os").getpid())) for a in index._actors()]
        assert len({*pids, os.getpid()}) == 3
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}/exe")]
    with pytest.raises(TaskError, match="the index is closed"):
        index.search(documents, 1)


def test_wrong_input_is_named(index_of: Callable[..., ShardedIndex]) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    broken = documents.copy()
    broken[5, 3] = np.nan
    with pytest.raises(TaskError, match=f"the first is that of document '{ids[5]}'"):
        index_of(ids, languages, broken)
    with pytest.raises(TaskError, match="document ids are not unique"):
        index_of([ids[1], *ids[1:]], languages, documents)
    with pytest.raises(TaskError, match="20 ids, 20 languages and 19 vectors"):
        index_of(ids, languages, documents[1:])
    with pytest.raises(TaskError, match="0 ids"):
        index_of([], [], documents[:0])
    index = index_of(ids, languages, documents)
    with pytest.raises(TaskError, match="query number 5"):
        index.search(broken, 3)
    with pytest.raises(TaskError, match=rf"shape \[20, {DIM - 1}\], expected \[n, {DIM}\]"):
        index.preceding(documents[:, 1:], np.zeros((20, 1), dtype=np.int64))
    with pytest.raises(TaskError, match="no documents in 'fr'; the corpus has ar, de"):
        index.search(documents, 3, ["fr"])
    with pytest.raises(TaskError, match="no languages"):
        index.search(documents, 3, [])
    with pytest.raises(TaskError, match="k=0"):
        index.search(documents, 0)
    assert index.search(documents[:0], 3).documents.shape == (0, 3)


def test_a_cluster_without_room_is_named_and_nothing_waits_on(index_of: Callable[..., ShardedIndex]) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    with pytest.raises(ResourceError, match=r"within 0\.5 s: it asks for 100 CPUs, .* of the cluster's 6"):
        index_of(ids, languages, documents, cpus_per_actor=100, start_timeout_seconds=0.5)
    index = index_of(ids, languages, documents, cpus_per_actor=0)
    assert index.search(documents, 1).documents.shape == (20, 1)


def test_vectors_that_do_not_fit_are_read_from_disk_and_found_alike(
    index_of: Callable[..., ShardedIndex], tmp_path: Path
) -> None:
    """The corpus takes three times what is allowed."""
    ids, languages, documents = corpus("ties", 900, 3)
    queries = vectors("ties", 30, 2)
    np.save(tmp_path / "vectors.npy", documents)
    allowed = documents.nbytes / 3 / 2**30
    index = index_of(ids, languages, np.load(tmp_path / "vectors.npy", mmap_mode="r"), memory_gib=allowed, max_rows=200)
    assert index._keeping is Keeping.STREAMED
    held = index_of(ids, languages, documents)
    assert held._keeping is Keeping.HELD
    rows, scores = flat_ranking(ids, queries, documents)
    hits = index.search(queries, 50)
    assert np.array_equal(hits.documents, rows[:, :50])
    assert np.array_equal(hits.scores, scores[:, :50])
    targets = np.random.default_rng(3).integers(-1, 900, (30, 4))
    assert np.array_equal(index.preceding(queries, targets), held.preceding(queries, targets))
    files = list(Path(index._scratch.name).iterdir()) if index._scratch else []
    assert len(files) > 3
    index.close()
    assert not any(path.exists() for path in files)


def test_a_shard_on_disk_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    """A process of its own: what a process took at its peak is never given back."""
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((150_000, 384), dtype=np.float32))
    script = (
        "import sys, resource, numpy as np; from pathlib import Path\n"
        "from hbt_ray.evaluate.shard import Shard; from hbt_ray.evaluate.vector_file import VectorFile\n"
        "vectors = VectorFile(Path(sys.argv[1])); queries = vectors[:8]\n"
        "Shard(np.arange(4_096), vectors[:4_096]).search(queries, 10)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak(); keys = Shard(np.arange(len(vectors)), vectors).search(queries, 10)\n"
        "assert (keys[:, 0] & 0xFFFFFFFF).tolist() == list(range(8))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "vectors.npy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40  # MiB, of a corpus of 220.


# --- approximate indexes


def clustered(num: int, seed: int, dim: int = 32) -> np.ndarray:
    """Unit vectors around common centres, as texts on common topics have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((50, dim))
    found = centres[rng.integers(0, 50, num)] + 0.5 * rng.standard_normal((num, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("factory", "parameters", "recall"),
    [("IVF64,Flat", "nprobe=16", 0.97), ("HNSW16", "efSearch=100", 0.95), ("IVF64,PQ16", "nprobe=16", 0.9)],
)
def test_an_approximate_index_proposes_and_exact_scores_choose(factory: str, parameters: str, recall: float) -> None:
    documents, queries = clustered(12_000, 1), clustered(100, 2)
    orders = np.arange(12_000)
    exact = Shard(orders, documents).search(queries, 10)
    shard = Shard(orders, documents, index=IndexConfig(factory=factory, parameters=parameters))
    found = shard.search(queries, 10)
    assert "_proposing" in vars(shard), "the other way of searching was tested"
    assert (np.diff(found, axis=1) < 0).all()
    shared = [len(np.intersect1d(own, other)) for own, other in zip(exact, found, strict=True)]
    assert np.mean(shared) / 10 >= recall  # Of keys, so what both found has the same score in both.


def test_what_an_index_finds_too_few_of_is_left_out(index_of: Callable[..., ShardedIndex]) -> None:
    documents = clustered(12_000, 1)
    index = index_of(
        [str(n) for n in range(12_000)],
        ["en"] * 12_000,
        documents,
        index=IndexConfig(factory="IVF256,Flat", parameters="nprobe=1"),
    )
    hits = index.search(clustered(5, 2), 2_000)
    missing = hits.documents < 0
    assert missing[:, -1].all()
    assert np.isneginf(hits.scores[missing]).all()
    assert not missing[:, :10].any()


def test_a_small_shard_is_scanned_whatever_the_index() -> None:
    documents, queries = vectors("ties", 3000, 1), vectors("ties", 40, 2)
    shard = Shard(np.arange(3000), documents, index=IndexConfig(factory="IVF1024,PQ4"))
    assert np.array_equal(shard.search(queries, 10), Shard(np.arange(3000), documents).search(queries, 10))


def test_memory_is_planned_before_anything_is_loaded() -> None:
    flat, million = IndexConfig(), 1_000_000
    vectors_gib = 4 * million * 384 / 2**30
    assert keeping(million, 384, flat, 2 * vectors_gib * 2**30) is Keeping.HELD
    assert keeping(million, 384, flat, 2 * vectors_gib * 2**30 - 1) is Keeping.STREAMED
    coded = IndexConfig(factory="IVF1024,PQ48")
    assert coded.bytes_for(million, 384) == million * (48 + 2 + 8)  # Code, number of the list, number of the row.
    assert keeping(million, 384, coded, 2**28) is Keeping.STREAMED
    with pytest.raises(ResourceError, match=r"HNSW32 over 1,000,000 vectors of width 384 takes 1\.68 GiB, and 1 GiB"):
        keeping(million, 384, IndexConfig(factory="HNSW32"), 2**30)


def test_what_faiss_does_not_know_is_refused_before_a_process_starts() -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    for values, match in (
        ({"factory": "IVFx"}, "FAISS makes no index 'IVFx'"),
        ({"factory": "PQ5"}, f"for vectors of width {DIM}"),
        ({"factory": "IVF4,Flat", "parameters": "nprobes=3"}, "with 'nprobes=3'"),
    ):
        with pytest.raises(ConfigError, match=match):
            ShardedIndex(ids, languages, documents, SearchConfig(index=IndexConfig(**values)))
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        with pytest.raises(ConfigError, match=r"built for CPUs; install hbt-ray\[gpu\]"):
            on_device(faiss.IndexFlatIP(4), True)
