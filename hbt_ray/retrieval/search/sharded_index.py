"""Exact search over shards: one shard = one language (large ones are cut further), held by Ray actors.

The same shards serve all settings: a question searches those of one language, or all, and answers are merged by
ranking key (`scores`), so that they do not depend on how the corpus is cut. Beside top-k search, `preceding` counts the
documents before given ones: that is enough for ranks, and so for every measure over the full list, and it moves a few
numbers a question instead of a list as long as the corpus.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
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
from hbt_ray.retrieval.vector_file import VectorFile, as_vector_file, create_vector_file
from hbt_ray.storage import temporary_folder

logger = logging.getLogger(__name__)

_BLOCK = 65_536


class SearchConfig(Config):
    """How a corpus is cut into shards and how these are asked."""

    index: IndexConfig = IndexConfig()
    memory_gib: float | None = Field(default=None, gt=0)
    """What vectors and indexes of a corpus may take in all processes. Default: half of the cluster's memory."""
    scratch: Path | None = None
    """Where vectors lie that are read from disk; on a cluster, a folder that all nodes see."""
    max_rows: int = Field(default=1_000_000, gt=0)
    """Documents of one shard; a larger language is cut into equal parts."""
    chunk_size: int = Field(default=1000, gt=0)
    """Queries that a shard scores at once; well below 1,000 the matrix products get slow."""
    num_chunks_in_flight: int = Field(default=4, gt=0)
    """Chunks that are under way at a time; bounds the object store."""
    num_actors: int | None = Field(default=None, gt=0)
    """Processes that share the shards, at most one a shard. Default: half of the cluster's CPUs."""
    cpus_per_actor: float | None = Field(default=None, ge=0)
    """CPUs that each process reserves and uses; 0 reserves none. Default: 1, or less where half of them is less."""
    max_rebuilds: int = Field(default=3, ge=0)
    """How often a process that died is started again before the search gives up."""
    start_timeout_seconds: float = Field(default=120, gt=0)
    """How long a process may wait for room on the cluster."""


@dataclass(frozen=True)
class _Part:
    """One shard: member `member` of its actor."""

    language: str
    actor: ShardActor
    member: int


_Answers = list[tuple[_Part, Integers]]


class ShardedIndex:
    """A corpus in shards. Use it in a `with`, or call `close`: it holds processes.

    Raises (on making):
        TaskError: no documents, ids that are not unique, counts that differ, or a vector that is not finite.
        ResourceError: the cluster has no room for the shards.
    """

    def __init__(
        self,
        ids: Sequence[str],
        languages: Sequence[str],
        vectors: npt.ArrayLike,
        config: SearchConfig | None = None,
    ) -> None:
        """One id, language and vector a document; vectors [documents, dim] become float32."""
        if not len(ids) == len(languages) == len(np.asarray(vectors)) > 0:
            raise TaskError(
                f"a corpus of {len(ids)} ids, {len(languages)} languages and {len(np.asarray(vectors))} vectors cannot "
                "be indexed; give one of each for every document, and at least one document"
            )
        self._vectors = _checked_corpus(vectors, ids)
        if len(set(ids)) < len(ids):
            raise TaskError("document ids are not unique, so ties could not be broken; add the language to the ids")
        self.ids = list(ids)
        self.languages = sorted(set(languages))
        self._language_of_row = np.searchsorted(self.languages, np.asarray(languages))
        # Python compares strings by code point, which is the byte order of UTF-8 and so the order of trec_eval.
        self._row_of_order = np.array(sorted(range(len(ids)), key=self.ids.__getitem__), dtype=np.int64)
        self._order_of_row = np.argsort(self._row_of_order)
        self._config = config or SearchConfig()
        self._config.index.empty(self._vectors.shape[1])  # What FAISS does not know shows before a process starts.
        self._scratch: Path | None = None
        self._cleanup = ExitStack()
        self._parts: list[_Part] = []
        try:
            self._start(np.asarray(languages))
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_task(cls, task: Task, vectors: npt.ArrayLike, config: SearchConfig | None = None) -> Self:
        """The documents of a task with their vectors [documents, dim], row by row."""
        return cls(task.documents["doc_id"].to_pylist(), task.documents["language"].to_pylist(), vectors, config)

    def __len__(self) -> int:
        return len(self.ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the shards' processes; a second call does nothing."""
        for actor in self._actors():
            actor.stop()
        self._parts.clear()
        self._cleanup.close()

    def search(self, queries: npt.ArrayLike, k: int, languages: Collection[str] | None = None) -> Hits:
        """The first k documents (fewer where the corpus has fewer) of all languages or of some: queries [n, dim].

        Raises:
            TaskError: a query vector that is not finite or of another dimension, an unknown language, or k < 1.
        """
        if k < 1:
            raise TaskError(f"k={k} asks for no documents; ask for at least one")
        checked = self._checked(queries)
        keys = [
            top_keys(np.hstack([keys for _, keys in answers]), k)
            for _, answers in self._ask(self._parts_of(languages), "search", checked, k)
        ]
        merged = np.concatenate(keys) if keys else np.empty((0, k), dtype=np.int64)
        found = merged != NO_KEY
        documents = np.where(found, self._row_of_order[np.where(found, key_orders(merged), 0)], -1)
        return Hits(documents, np.where(found, key_scores(merged), -np.inf).astype(np.float32))

    def preceding(self, queries: npt.ArrayLike, documents: Integers) -> Integers:
        """How many documents of each language come before the given ones: an exact rank is 1 + such counts.

        Queries [n, dim], rows of the corpus [n, g] with -1 as padding → [languages, n, g]; 0 at the padding.

        Raises:
            TaskError: a query vector that is not finite or of another dimension.
        """
        checked = self._checked(queries)
        counts = np.zeros((len(self.languages), *documents.shape), dtype=np.int64)
        for rows, answers in self._ask(self._parts_of(None), "preceding", checked, self._keys(checked, documents)):
            for part, answer in answers:
                counts[self.languages.index(part.language), rows] += answer
        counts[:, documents < 0] = 0
        return counts

    def places(self, queries: npt.ArrayLike, documents: Integers) -> DocumentRanks:
        """Exact ranks of rows of the corpus [n, g], -1 as padding: one more than precede them."""
        counts, given = self.preceding(queries, documents), documents >= 0
        own = np.take_along_axis(counts, self._language_of_row[documents][None], axis=0)[0]
        return DocumentRanks(np.where(given, own + 1, 0), np.where(given, counts.sum(axis=0) + 1, 0))

    def _keys(self, queries: Floats, documents: Integers) -> Integers:
        query, column = np.nonzero(documents >= 0)
        rows = documents[query, column]
        keys = np.zeros(documents.shape, dtype=np.int64)
        keys[query, column] = ranking_keys(pair_scores(queries, self._vectors, query, rows), self._order_of_row[rows])
        return keys

    def _checked(self, queries: npt.ArrayLike) -> Floats:
        return checked_vectors(queries, lambda row: f"query number {row}", self._vectors.shape[1])

    def _parts_of(self, languages: Collection[str] | None) -> list[_Part]:
        if not self._parts:
            raise TaskError("the index is closed; search inside its `with`")
        wanted = self.languages if languages is None else languages
        if not wanted:
            raise TaskError("no languages to search; name at least one, or give None for all")
        if unknown := sorted(set(wanted) - set(self.languages)):
            raise TaskError(f"no documents in {unknown[0]!r}; the corpus has {', '.join(self.languages)}")
        return [part for part in self._parts if part.language in wanted]

    def _ask(self, parts: list[_Part], method: str, queries: Floats, other: Any) -> Iterator[tuple[slice, _Answers]]:
        """Chunk by chunk the answers of the parts; `other` is an argument for all, or an array with a row a query."""
        asked: dict[ShardActor, list[_Part]] = {}
        for part in parts:
            asked.setdefault(part.actor, []).append(part)
        pending: deque[tuple[slice, list[ShardRequest]]] = deque()
        for start in range(0, len(queries), self._config.chunk_size):
            rows = slice(start, start + self._config.chunk_size)
            chunk = ray.put(queries[rows])
            argument = ray.put(other[rows]) if isinstance(other, np.ndarray) else other
            requests = [
                actor.ask([part.member for part in held], method, chunk, argument) for actor, held in asked.items()
            ]
            pending.append((rows, requests))
            if len(pending) == self._config.num_chunks_in_flight:
                yield _collect(asked, *pending.popleft())
        while pending:
            yield _collect(asked, *pending.popleft())

    def _start(self, languages: npt.NDArray[np.str_]) -> None:
        cuts = [(language, rows) for language in self.languages for rows in self._cut(languages, language)]
        config, cpus = self._config, self._num_cluster_cpus()
        logger.debug("%s: vectors are %s", self.languages, self._keeping.value)
        num_actors = min(len(cuts), config.num_actors or max(1, int(cpus / 2)))
        # Half, so that Ray Data and the driver's own tasks cannot starve beside a long-lived index.
        num_cpus = min(1.0, round(cpus / 2 / num_actors, 3)) if config.cpus_per_actor is None else config.cpus_per_actor
        for number, held in enumerate(_balance([len(rows) for _, rows in cuts], num_actors)):
            contents = [content for cut in held for content in self._contents(cut, cuts[cut][1])]
            name = f"shard actor {number} ({', '.join(f'{cuts[cut][0]} {len(cuts[cut][1])}' for cut in held)})"
            actor = ShardActor(
                name, contents, config.index, num_cpus, config.max_rebuilds, config.start_timeout_seconds
            )
            self._parts += [_Part(cuts[cut][0], actor, member) for member, cut in enumerate(held)]
        for actor in self._actors():
            actor.wait_until_ready()

    def _contents(self, number: int, rows: Integers) -> tuple[Any, Any]:
        """References to the order numbers and vectors of one shard."""
        orders = ray.put(self._order_of_row[rows])
        if self._keeping is VectorPlacement.HELD:
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
    def _keeping(self) -> VectorPlacement:
        config = self._config
        allowance = config.memory_gib * 2**30 if config.memory_gib else ray.cluster_resources().get("memory", 0.0) / 2
        num_rows, width = self._vectors.shape
        return place_vectors(num_rows, width, config.index, allowance)

    def _actors(self) -> list[ShardActor]:
        return list(dict.fromkeys(part.actor for part in self._parts))

    @staticmethod
    def _num_cluster_cpus() -> float:
        if not ray.is_initialized():
            ray.init()
        return float(ray.cluster_resources().get("CPU", 0.0))

    def _cut(self, languages: npt.NDArray[np.str_], language: str) -> list[npt.NDArray[np.int64]]:
        """The rows of one language, in the order of their ids, in parts of at most `max_rows`."""
        rows = self._row_of_order[languages[self._row_of_order] == language]
        return np.array_split(rows, -(-len(rows) // self._config.max_rows))


def _checked_corpus(vectors: npt.ArrayLike, ids: Sequence[str]) -> Floats | VectorFile:
    """See `checked_vectors`; block by block where they are in a file."""
    corpus = as_vector_file(vectors) if isinstance(vectors, np.ndarray) else vectors
    if not isinstance(corpus, VectorFile):
        return checked_vectors(corpus, lambda row: f"document {ids[row]!r}")
    for start in range(0, len(corpus), _BLOCK):
        some = ids[start : start + _BLOCK]
        checked_vectors(corpus[start : start + _BLOCK], lambda row, some=some: f"document {some[row]!r}")  # type: ignore[misc]
    return corpus


def _collect(asked: dict[ShardActor, list[_Part]], rows: slice, requests: list[ShardRequest]) -> tuple[slice, _Answers]:
    """Wait for one chunk's answers of all actors."""
    answers: _Answers = []
    for (actor, held), request in zip(asked.items(), requests, strict=True):
        answers += zip(held, actor.answer(request), strict=True)
    return rows, answers


def _balance(sizes: list[int], num_groups: int) -> list[list[int]]:
    """Positions of `sizes` in groups of about equal sums: the largest first, each to the least full group."""
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(position)
    return groups


_COPIES = 2
"""Of a corpus in memory: what the processes share, and what FAISS's flat index copies."""


class VectorPlacement(Enum):
    """Where vectors are."""

    HELD = "in memory"
    STREAMED = "on disk, read anew for every chunk of queries"


def place_vectors(num_rows: int, width: int, index: IndexConfig, allowance: float) -> VectorPlacement:
    """What an allowance, in bytes over all processes, has room for.

    Exact search falls back to reading from disk. An index other than `Flat` has to be in memory, and its vectors, which
    only put its proposals in order, need not be.

    Raises:
        ResourceError: the index does not fit; with figures.
    """
    vectors = 4 * num_rows * width
    if index.exact:
        return VectorPlacement.HELD if _COPIES * vectors <= allowance else VectorPlacement.STREAMED
    needed = index.bytes_for(num_rows, width)
    if needed > allowance:
        raise ResourceError(
            f"an index {index.factory} over {num_rows:,} vectors of width {width} takes {gib(needed)}, and "
            f"{gib(allowance)} are allowed for it; raise search.memory_gib, add nodes, take a smaller code such as "
            "IVF1024,PQ48, or search exactly (Flat), which reads from disk what does not fit"
        )
    return VectorPlacement.HELD if needed + vectors <= allowance else VectorPlacement.STREAMED


def gib(num_bytes: float) -> str:
    """`1.5 GiB`, `0.003 GiB`."""
    return f"{num_bytes / 2**30:.3g} GiB"
