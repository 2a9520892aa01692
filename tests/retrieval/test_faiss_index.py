"""An approximate index proposes, exact scores choose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hbt_ray.errors import ConfigError, ResourceError
from hbt_ray.retrieval.search.faiss_index import IndexConfig, on_device
from hbt_ray.retrieval.search.shard import VectorShard
from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex, fits_in_memory
from tests.retrieval.corpora import clustered, corpus, vectors


@pytest.mark.parametrize(
    ("factory", "parameters", "recall"),
    [
        ("IVF64,Flat", "nprobe=16", 0.97),
        ("HNSW16", "efSearch=100", 0.95),
        ("IVF64,SQ8", "nprobe=16", 0.97),
        pytest.param("IVF64,PQ16", "nprobe=16", 0.9, marks=pytest.mark.soak),  # A minute of training.
    ],
)
def test_an_approximate_index_proposes_and_exact_scores_choose(factory: str, parameters: str, recall: float) -> None:
    documents, queries = clustered(12_000, 1), clustered(100, 2)
    orders = np.arange(12_000)
    exact = VectorShard(orders, documents).search(queries, 10)
    shard = VectorShard(orders, documents, index=IndexConfig(factory=factory, parameters=parameters))
    found = shard.search(queries, 10)
    assert "_proposal_index" in vars(shard), "the other way of searching was tested"
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
    shard = VectorShard(np.arange(3000), documents, index=IndexConfig(factory="IVF1024,PQ4"))
    assert np.array_equal(shard.search(queries, 10), VectorShard(np.arange(3000), documents).search(queries, 10))


def test_memory_is_planned_before_anything_is_loaded() -> None:
    flat, million = IndexConfig(), 1_000_000
    vectors_gib = 4 * million * 384 / 2**30
    assert fits_in_memory(million, 384, flat, 2 * vectors_gib * 2**30)
    assert not fits_in_memory(million, 384, flat, 2 * vectors_gib * 2**30 - 1)
    coded = IndexConfig(factory="IVF1024,PQ48")
    assert coded.bytes_for(million, 384) == million * (48 + 2 + 8)  # Code, number of the list, number of the row.
    assert not fits_in_memory(million, 384, coded, 2**28)
    with pytest.raises(ResourceError) as error:
        fits_in_memory(million, 384, IndexConfig(factory="HNSW32"), 2**30)
    assert error.value.code == "RESOURCES"


def test_what_faiss_does_not_know_is_refused_before_a_process_starts() -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    # DIM is not a multiple of 5.
    for values in ({"factory": "IVFx"}, {"factory": "PQ5"}, {"factory": "IVF4,Flat", "parameters": "nprobes=3"}):
        with pytest.raises(ConfigError) as error:
            ShardedIndex(ids, languages, documents, SearchConfig(index=IndexConfig(**values)))
        assert error.value.code == "UNKNOWN_FACTORY"
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        with pytest.raises(ConfigError) as error:
            on_device(faiss.IndexFlatIP(4), True)
        assert error.value.code == "NO_GPU"
