"""Sharded search is one flat index, to the last rank. The oracle scores every pair by definition and sorts."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from hbt_ray.errors import HbtError, ResourceError, TaskError
from hbt_ray.retrieval.search import shard_actor
from hbt_ray.retrieval.search.sharded_index import ShardedIndex
from tests.retrieval.corpora import corpus, flat_ranking, vectors


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

    targets = np.random.default_rng(3).integers(-1, 200, (30, 4))
    position = np.argsort(rows, axis=1)
    for language, counts in zip(index.languages, index.count_preceding(queries, targets), strict=True):
        member = np.array(languages) == language
        for (query, column), target in np.ndenumerate(targets):
            before = member & (position[query] < position[query, target]) if target >= 0 else member & False
            assert counts[query, column] == before.sum()


def test_large_languages_are_cut_and_small_ones_share_a_process(index_of: Callable[..., ShardedIndex]) -> None:
    ids, _, documents = corpus("ties", 200, 2)
    index = index_of(ids, ["de"] * 150 + ["en"] * 50, documents, max_rows=60, num_actors=2)
    assert sorted(language for actor in index._actors for language in actor.languages) == ["de", "de", "de", "en"]
    assert [len(actor.languages) for actor in index._actors] == [2, 2]


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

    ray.get(index._actors[0]._actor.__ray_call__.remote(trap))


def test_a_killed_shard_is_rebuilt_and_the_answer_is_the_same(
    index_of: Callable[..., ShardedIndex], caplog: pytest.LogCaptureFixture
) -> None:
    ids, languages, documents = corpus("ties", 200, 3)
    queries = vectors("ties", 50, 2)
    targets = np.random.default_rng(3).integers(0, 200, (50, 2))
    index = index_of(ids, languages, documents, chunk_size=5, num_actors=2)
    whole, counts = index.search(queries, 20), index.count_preceding(queries, targets)
    assert np.array_equal(whole.documents, flat_ranking(ids, queries, documents)[0][:, :20])

    arm(index, "search", at_call=4)
    with caplog.at_level(logging.WARNING):
        again = index.search(queries, 20)
    assert np.array_equal(again.documents, whole.documents)
    assert np.array_equal(again.scores, whole.scores)
    assert caplog.text.count("starting it again, 1 of 3 times") == 1

    arm(index, "count_preceding", at_call=7)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(index.count_preceding(queries, targets), counts)
    assert caplog.text.count("starting it again, 2 of 3 times") == 1

    ray.kill(index._actors[-1]._actor)  # between two searches
    assert np.array_equal(index.search(queries, 20).documents, whole.documents)


def test_a_shard_that_keeps_dying_ends_the_search(
    index_of: Callable[..., ShardedIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_actor, "MAX_RESTARTS", 0)
    ids, languages, documents = corpus("ties", 20, 2)
    index = index_of(ids, languages, documents, num_actors=1)
    arm(index, "search", at_call=1)
    with pytest.raises(HbtError, match=r"shard actor 0 \(de 12, ar 8\) died") as error:
        index.search(documents, 3)
    assert error.value.code == "WORKER_DIED"


def test_close_ends_the_processes(index_of: Callable[..., ShardedIndex]) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    with index_of(ids, languages, documents, num_actors=2) as index:
        pids = [ray.get(a._actor.__ray_call__.remote(lambda group: __import__("os").getpid())) for a in index._actors]
        assert len({*pids, os.getpid()}) == 3
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}/exe")]
    with pytest.raises(TaskError) as error:
        index.search(documents, 1)
    assert error.value.code == "INVALID_SEARCH"


def test_wrong_input_is_named(index_of: Callable[..., ShardedIndex]) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    broken = documents.copy()
    broken[5, 3] = np.nan
    with pytest.raises(TaskError) as error:
        index_of(ids, languages, broken)
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        index_of([ids[1], *ids[1:]], languages, documents)
    assert error.value.code == "INVALID_CORPUS"
    with pytest.raises(TaskError) as error:
        index_of(ids, languages, documents[1:])
    assert error.value.code == "INVALID_CORPUS"
    with pytest.raises(TaskError) as error:
        index_of([], [], documents[:0])
    assert error.value.code == "INVALID_CORPUS"
    index = index_of(ids, languages, documents)
    with pytest.raises(TaskError) as error:
        index.search(broken, 3)
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        index.count_preceding(documents[:, 1:], np.zeros((20, 1), dtype=np.int64))
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(TaskError) as error:
        index.search(documents, 0)
    assert error.value.code == "INVALID_SEARCH"
    assert index.search(documents[:0], 3).documents.shape == (0, 3)


def test_a_cluster_without_room_is_named_and_nothing_waits_on(
    index_of: Callable[..., ShardedIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_actor, "START_TIMEOUT_SECONDS", 0.5)
    ids, languages, documents = corpus("ties", 20, 2)
    with pytest.raises(ResourceError) as error:
        index_of(ids, languages, documents, cpus_per_actor=100)
    assert error.value.code == "RESOURCES"
    monkeypatch.undo()
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
    assert not index._in_memory
    held = index_of(ids, languages, documents)
    assert held._in_memory
    rows, scores = flat_ranking(ids, queries, documents)
    hits = index.search(queries, 50)
    assert np.array_equal(hits.documents, rows[:, :50])
    assert np.array_equal(hits.scores, scores[:, :50])
    targets = np.random.default_rng(3).integers(-1, 900, (30, 4))
    assert np.array_equal(index.count_preceding(queries, targets), held.count_preceding(queries, targets))
    files = list(index._scratch.iterdir()) if index._scratch else []
    assert len(files) > 3
    index.close()
    assert not any(path.exists() for path in files)
