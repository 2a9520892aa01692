"""Search over shards in Ray actors: one shard per language, or several for a large language.

The same shards serve all settings. Results are merged by ranking key (`exact_scores`), so they do not depend on how the
corpus is cut. Beside top-k search, `count_preceding` counts the documents of each language before given ones. That
suffices for ranks, and so for every measure over the full list, and it transfers a few numbers per question instead of
a list as long as the corpus.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import ray
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.errors import ResourceError, TaskError
from hbt_ray.retrieval.search.exact_scores import (
    NO_KEY,
    Floats,
    Integers,
    checked_vectors,
    key_orders,
    key_scores,
    pair_scores,
    ranking_keys,
)
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.ranking import DocumentRanks, Hits
from hbt_ray.retrieval.search.shard import top_keys
from hbt_ray.retrieval.search.shard_actor import ShardActor, ShardRequest
from hbt_ray.retrieval.tasks import Task
from hbt_ray.retrieval.vectors import VectorFile, as_vector_file, create_vector_file
from hbt_ray.storage import temporary_folder

logger = logging.getLogger(__name__)

_BLOCK = 65_536
_CHUNKS_IN_FLIGHT = 4
"""Maximum number of chunks of queries in process at a time, to limit the memory of the object store."""
_FLAT_COPIES = 2
"""Copies of a corpus in memory: one in the object store, one in FAISS's flat indexes."""


class SearchConfig(Config):
    """Settings of sharding a corpus and of searching the shards."""

    index: IndexConfig = IndexConfig()
    """Index of each shard."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Limit of vectors and indexes of a corpus over all processes, in GiB. Default: half of the cluster's memory."""
    scratch: Path | None = None
    """Folder for vectors that are searched on disk; on a cluster, all nodes must share it. Default: a temporary one."""
    max_rows: int = Field(default=1_000_000, gt=0)
    """Maximum number of documents in a shard; a larger language is cut into equal parts."""
    chunk_size: int = Field(default=1000, gt=0)
    """Number of queries that a shard scores at once. Matrix products are slow well below the default."""
    num_actors: int | None = Field(default=None, gt=0)
    """Number of processes for the shards; never more than there are shards. Default: half of the cluster's CPUs."""
    cpus_per_actor: float | None = Field(default=None, ge=0)
    """CPUs that each process reserves and uses; 0 reserves none. Default: 1, or less if the processes would need more
    than half of the CPUs."""


def fits_in_memory(num_rows: int, width: int, index: IndexConfig, allowance: float) -> bool:
    """Whether the vectors fit into `allowance` bytes of memory over all processes; else they are read from disk.

    Exact search on disk reads them again for every chunk of queries. An index other than `Flat` must be in memory; its
    vectors need not be, since they only score its proposals.

    Raises:
        ResourceError: the index does not fit; the message has the sizes.
    """
    vectors = 4 * num_rows * width
    if index.exact:
        return _FLAT_COPIES * vectors <= allowance
    needed = index.bytes_for(num_rows, width)
    if needed > allowance:
        raise ResourceError(
            f"an index {index.factory} over {num_rows:,} vectors of width {width} takes {gib(needed)}, and "
            f"{gib(allowance)} are allowed for it; raise search.memory_gib, add nodes, take a smaller code such as "
            "IVF1024,PQ48, or search exactly (Flat), which reads from disk what does not fit",
            code="RESOURCES",
        )
    return needed + vectors <= allowance


def gib(num_bytes: float) -> str:
    """`1.5 GiB`, `0.003 GiB`."""
    return f"{num_bytes / 2**30:.3g} GiB"


_Results = list[tuple[str, Integers]]
"""Language and keys of each shard."""


class ShardedIndex:
    """A corpus in shards. Use it in a `with` block or call `close`, which ends its processes."""

    def __init__(
        self,
        ids: Sequence[str],
        languages: Sequence[str],
        vectors: npt.ArrayLike,
        config: SearchConfig | None = None,
    ) -> None:
        """One id, language and vector per document; vectors [documents, dim] become float32.

        Raises:
            TaskError: no documents, ids that are not unique, counts that differ, or a vector that is not finite.
            ConfigError: FAISS has no such index.
            ResourceError: the cluster has no memory or CPUs for the shards.
        """
        if not len(ids) == len(languages) == len(np.asarray(vectors)) > 0:
            raise TaskError(
                f"a corpus of {len(ids)} ids, {len(languages)} languages and {len(np.asarray(vectors))} vectors cannot "
                "be indexed; give one of each for every document, and at least one document",
                code="INVALID_CORPUS",
            )
        self._vectors = _checked_corpus(vectors, ids)
        if len(set(ids)) < len(ids):
            raise TaskError(
                "document ids are not unique, so ties could not be broken; add the language to the ids",
                code="INVALID_CORPUS",
            )
        self.ids = list(ids)
        self.languages = sorted(set(languages))
        # [documents]: numbers of languages, and the order number of each row with its inverse.
        self._language_of_row = np.searchsorted(self.languages, np.asarray(languages))
        # Python compares strings by code point. That is the byte order of UTF-8, and so the order of trec_eval.
        self._row_of_order = np.array(sorted(range(len(ids)), key=self.ids.__getitem__), dtype=np.int64)
        self._order_of_row = np.argsort(self._row_of_order)
        self._config = config or SearchConfig()
        self._config.index.empty(self._vectors.shape[1])  # Refuse an unknown index before a process starts.
        self._scratch: Path | None = None
        self._cleanup = ExitStack()
        self._actors: list[ShardActor] = []
        try:
            self._start(np.asarray(languages))
        except BaseException:  # An interrupt as well: `__exit__` is not called for an unfinished object.
            self.close()
            raise

    @classmethod
    def of_task(cls, task: Task, vectors: npt.ArrayLike, config: SearchConfig | None = None) -> Self:
        """An index of a task's documents, whose vectors are [documents, dim] in the same order."""
        return cls(task.documents["doc_id"].to_pylist(), task.documents["language"].to_pylist(), vectors, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of the shards; a second call does nothing."""
        for actor in self._actors:
            actor.stop()
        self._actors.clear()
        self._cleanup.close()

    def search(self, queries: npt.ArrayLike, k: int) -> Hits:
        """The first k documents of all languages (fewer if the corpus has fewer) for queries [n, dim].

        Raises:
            TaskError: a query vector that is not finite or of another dimension, or k < 1.
        """
        if k < 1:
            raise TaskError(f"k={k} asks for no documents; ask for at least one", code="INVALID_SEARCH")
        checked = self._checked(queries)
        chunks = [
            top_keys(np.hstack([keys for _, keys in results]), k)
            for _, results in self._call_shards("search", checked, k)
        ]
        merged = np.concatenate(chunks) if chunks else np.empty((0, k), dtype=np.int64)
        valid = merged != NO_KEY
        documents = np.where(valid, self._row_of_order[np.where(valid, key_orders(merged), 0)], -1)
        return Hits(documents, np.where(valid, key_scores(merged), -np.inf).astype(np.float32))

    def count_preceding(self, queries: npt.ArrayLike, documents: Integers) -> Integers:
        """Number of documents of each language that come before given ones. The rank in a language is one more.

        Args:
            queries: [n, dim].
            documents: [n, g] rows of the corpus, -1 as padding.

        Returns:
            [languages, n, g]; 0 at the padding.

        Raises:
            TaskError: a query vector that is not finite or of another dimension.
        """
        checked = self._checked(queries)
        counts = np.zeros((len(self.languages), *documents.shape), dtype=np.int64)
        keys = self._keys(checked, documents)
        for rows, results in self._call_shards("count_preceding", checked, keys):
            for language, preceding in results:
                # `+=`, since a large language has several shards.
                counts[self.languages.index(language), rows] += preceding
        counts[:, documents < 0] = 0
        return counts

    def document_ranks(self, queries: npt.ArrayLike, documents: Integers) -> DocumentRanks:
        """Exact ranks of rows of the corpus [n, g], -1 as padding."""
        counts = self.count_preceding(queries, documents)
        # Pick each document's own language from [languages, n, g]; the row -1 of padding is masked below.
        in_language = np.take_along_axis(counts, self._language_of_row[documents][None], axis=0)[0]
        is_document = documents >= 0
        return DocumentRanks(
            np.where(is_document, in_language + 1, 0), np.where(is_document, counts.sum(axis=0) + 1, 0)
        )

    def _keys(self, queries: Floats, documents: Integers) -> Integers:
        query, column = np.nonzero(documents >= 0)
        rows = documents[query, column]
        keys = np.zeros(documents.shape, dtype=np.int64)
        keys[query, column] = ranking_keys(pair_scores(queries, self._vectors, query, rows), self._order_of_row[rows])
        return keys

    def _checked(self, queries: npt.ArrayLike) -> Floats:
        return checked_vectors(queries, lambda row: f"query number {row}", self._vectors.shape[1])

    def _call_shards(self, method: str, queries: Floats, argument: Any) -> Iterator[tuple[slice, _Results]]:
        """Results of the shards, one chunk of queries after the other.

        Args:
            argument: second argument of the method: one value for all queries, or an array with a row per query.

        Raises:
            TaskError: the index is closed.
        """
        if not self._actors:
            raise TaskError("the index is closed; search inside its `with` block", code="INVALID_SEARCH")
        # Chunks are sent before earlier ones are collected, so that the processes do not wait for the driver.
        pending: deque[tuple[slice, list[ShardRequest]]] = deque()
        for start in range(0, len(queries), self._config.chunk_size):
            rows = slice(start, start + self._config.chunk_size)
            chunk = ray.put(queries[rows])
            chunk_argument = ray.put(argument[rows]) if isinstance(argument, np.ndarray) else argument
            pending.append((rows, [actor.call(method, chunk, chunk_argument) for actor in self._actors]))
            if len(pending) == _CHUNKS_IN_FLIGHT:
                yield self._collect(*pending.popleft())
        while pending:
            yield self._collect(*pending.popleft())

    def _collect(self, rows: slice, requests: list[ShardRequest]) -> tuple[slice, _Results]:
        """Wait for the results of all actors for one chunk."""
        results: _Results = []
        for actor, request in zip(self._actors, requests, strict=True):
            results += zip(actor.languages, actor.results(request), strict=True)
        return rows, results

    def _start(self, languages: npt.NDArray[np.str_]) -> None:
        cuts = []  # (language, rows): at most `max_rows` rows of one language, in the order of their ids
        for language in self.languages:
            rows = self._row_of_order[languages[self._row_of_order] == language]
            cuts += [(language, part) for part in np.array_split(rows, -(-len(rows) // self._config.max_rows))]
        if not ray.is_initialized():
            ray.init()
        config, cpus = self._config, float(ray.cluster_resources().get("CPU", 0.0))
        logger.debug("%s: vectors are %s", self.languages, "in memory" if self._in_memory else "on disk")
        num_actors = min(len(cuts), config.num_actors or max(1, int(cpus / 2)))
        # Half of the CPUs, so that Ray Data and the driver's tasks cannot starve beside a long-lived index.
        num_cpus = min(1.0, round(cpus / 2 / num_actors, 3)) if config.cpus_per_actor is None else config.cpus_per_actor
        for number, group in enumerate(_balance([len(rows) for _, rows in cuts], num_actors)):
            contents = [content for cut in group for content in self._contents(cut, cuts[cut][1])]
            name = f"shard actor {number} ({', '.join(f'{cuts[cut][0]} {len(cuts[cut][1])}' for cut in group)})"
            languages_of_shards = tuple(cuts[cut][0] for cut in group)
            self._actors.append(ShardActor(name, languages_of_shards, contents, config.index, num_cpus))
        for actor in self._actors:
            actor.wait_until_ready()

    def _contents(self, number: int, rows: Integers) -> tuple[Any, Any]:
        """Reference to the order numbers of one shard, and its vectors: a reference, or a file."""
        orders = ray.put(self._order_of_row[rows])
        if self._in_memory:
            return orders, ray.put(self._vectors[rows])
        if self._scratch is None:
            self._scratch = self._cleanup.enter_context(temporary_folder("shards", self._config.scratch))
        path = self._scratch / f"{number}.npy"
        file = create_vector_file(path, (len(rows), self._vectors.shape[1]))
        for start in range(0, len(rows), _BLOCK):
            file[start : start + _BLOCK] = self._vectors[rows[start : start + _BLOCK]]
        file.flush()
        return orders, VectorFile(path)

    @cached_property
    def _in_memory(self) -> bool:
        limit, (num_rows, width) = self._config.memory_gib, self._vectors.shape
        allowance = limit * 2**30 if limit else ray.cluster_resources().get("memory", 0.0) / 2
        return fits_in_memory(num_rows, width, self._config.index, allowance)


def _checked_corpus(vectors: npt.ArrayLike, ids: Sequence[str]) -> Floats | VectorFile:
    """The vectors after `checked_vectors`; those in a file are checked block by block and stay there."""
    corpus = as_vector_file(vectors) if isinstance(vectors, np.ndarray) else vectors
    if not isinstance(corpus, VectorFile):
        return checked_vectors(corpus, lambda row: f"document {ids[row]!r}")
    for start in range(0, len(corpus), _BLOCK):
        checked_vectors(corpus[start : start + _BLOCK], lambda row, first=start: f"document {ids[first + row]!r}")  # type: ignore[misc]
    return corpus


def _balance(sizes: list[int], num_groups: int) -> list[list[int]]:
    """Positions of `sizes` in groups of about equal sums: the largest first, each into the emptiest group."""
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(position)
    return groups
