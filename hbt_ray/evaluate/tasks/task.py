"""The task: documents and queries in some languages, and which documents answer which query.

Relevance is binary. A task that exists is sound: ids are unique over all languages, every judgement names a query and
a document that are there, and every query has an answer, so that no measure ever divides by nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import TaskError
from hbt_ray.evaluate.measures.measures import parse
from hbt_ray.languages import normalise
from hbt_ray.storage import valid_name

logger = logging.getLogger(__name__)

DOCUMENTS = pa.schema([(name, pa.string()) for name in ("doc_id", "language", "text")])
QUERIES = pa.schema([(name, pa.string()) for name in ("query_id", "language", "text")])
QRELS = pa.schema([(name, pa.string()) for name in ("query_id", "doc_id")])
_BATCH = 10_000


@dataclass(frozen=True, eq=False)
class Task:
    """One retrieval task; queries without any relevant document are dropped on making, and counted.

    Raises:
        InputError: its name cannot be that of a folder.
        TaskError: wrong columns, no documents, no text in any of them, no answerable query, an id twice, a language tag
            that is not in canonical spelling, a judgement that names an unknown query or document, or a measure that
            `measures.parse` does not know.
    """

    name: str
    documents: pa.Table
    """Columns doc_id, language, text."""
    queries: pa.Table
    """Columns query_id, language, text."""
    qrels: pa.Table
    """Columns query_id, doc_id: the relevant pairs and no others."""
    measures: tuple[str, ...] = ()
    """What the task is known by, as `ir-measures` names: measured beside the judge's own, and shown in their place."""
    num_dropped: int = field(init=False, default=0)
    """Queries that were left out because nothing in the corpus answers them."""

    def __post_init__(self) -> None:
        valid_name(self.name, "task")
        for attribute, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS)):
            object.__setattr__(self, attribute, self._checked(attribute, schema))
        if not self.documents.num_rows:
            raise TaskError(f"task {self.name}: the corpus is empty, so nothing can be found; check the task's folder")
        self._check_measures()
        self._check_texts()
        self._check_ids()
        self._drop_unanswered()
        self._check_languages()

    @classmethod
    def from_rows(
        cls,
        name: str,
        documents: Iterable[Sequence[str]],
        queries: Iterable[Sequence[str]],
        qrels: Iterable[Sequence[str]],
        measures: tuple[str, ...] = (),
    ) -> Task:
        """The same from rows of strings, in the order of the tables' columns."""
        return cls(name, table_of(documents, DOCUMENTS), table_of(queries, QUERIES), table_of(qrels, QRELS), measures)

    @cached_property
    def languages(self) -> list[str]:
        """All languages of documents and queries, sorted."""
        found = {*self.documents["language"].unique().to_pylist(), *self.queries["language"].unique().to_pylist()}
        return sorted(found)

    @cached_property
    def relevant(self) -> npt.NDArray[np.int64]:
        """[queries, most relevant documents of any query]: rows of `documents`, ascending, then -1 as padding."""
        query = _positions(self.qrels["query_id"], self.queries["query_id"])
        document = _positions(self.qrels["doc_id"], self.documents["doc_id"])
        order = np.lexsort((document, query))
        query, document = query[order], document[order]
        counts = np.bincount(query, minlength=self.queries.num_rows)
        rows = np.full((len(counts), int(counts.max())), -1, dtype=np.int64)
        column = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows[query, column] = document
        return rows

    def _checked(self, attribute: str, schema: pa.Schema) -> pa.Table:
        table: pa.Table = getattr(self, attribute)
        missing = set(schema.names) - set(table.column_names)
        if missing:
            raise TaskError(f"task {self.name}: {attribute} lack the columns {', '.join(sorted(missing))}")
        table = table.select(schema.names).cast(schema)
        for column in schema.names:
            if table[column].null_count:
                raise TaskError(f"task {self.name}: {attribute}.{column} has nulls; every row needs a value")
        return table

    def _check_measures(self) -> None:
        for name in self.measures:
            try:
                parse(name)
            except TaskError as error:
                raise TaskError(f"task {self.name}: {error}") from None

    def _check_texts(self) -> None:
        for attribute, table in (("documents", self.documents), ("queries", self.queries)):
            empty = pc.or_(pc.equal(pc.binary_length(table["text"]), 0), pc.utf8_is_space(table["text"]))
            num_empty = pc.sum(empty).as_py() or 0
            if not num_empty:
                continue
            first = table.column(0).filter(empty)[0].as_py()
            if num_empty == table.num_rows:
                raise TaskError(
                    f"task {self.name}: all {num_empty} {attribute} are empty or white space, the first is {first!r}; "
                    "check that the texts were read from the right place"
                )
            logger.warning(
                "task %s: %d of %d %s are empty or white space, the first is %r; they stay, as ids without meaning",
                self.name, num_empty, table.num_rows, attribute, first,
            )  # fmt: skip

    def _check_ids(self) -> None:
        self._check_unique("documents", self.documents["doc_id"])
        self._check_unique("queries", self.queries["query_id"])
        self._check_unique("qrels", pc.binary_join_element_wise(self.qrels["query_id"], self.qrels["doc_id"], "\t"))
        for column, known, table in (("query_id", self.queries, "queries"), ("doc_id", self.documents, "documents")):
            named = self.qrels[column]
            unknown = named.filter(pc.invert(pc.is_in(named, value_set=known[column].combine_chunks())))
            if len(unknown):
                raise TaskError(
                    f"task {self.name}: {len(unknown)} qrels name a {column} that {table} do not have, the first is "
                    f"{unknown[0].as_py()!r}; add it to {table} or remove the judgement"
                )

    def _check_unique(self, attribute: str, ids: pa.ChunkedArray) -> None:
        if len(ids.unique()) == len(ids):
            return
        counts = ids.value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        raise TaskError(
            f"task {self.name}: {len(twice)} ids occur more than once in {attribute}, the first is "
            f"{twice.field('values')[0].as_py()!r}, so ranks would be ambiguous; ids must be unique over all languages"
        )

    def _drop_unanswered(self) -> None:
        ids = self.queries["query_id"]
        answered = pc.is_in(ids, value_set=self.qrels["query_id"].combine_chunks())
        dropped = ids.filter(pc.invert(answered))
        if len(dropped) == len(ids):
            raise TaskError(
                f"task {self.name}: none of its {len(ids)} queries has a relevant document, so nothing can be "
                "measured; check that the qrels use the ids of this corpus"
            )
        if len(dropped):
            logger.warning(
                "task %s: %d of %d queries have no relevant document and are left out, the first is %r",
                self.name, len(dropped), len(ids), dropped[0].as_py(),
            )  # fmt: skip
            object.__setattr__(self, "queries", self.queries.filter(answered))
            object.__setattr__(self, "num_dropped", len(dropped))

    def _check_languages(self) -> None:
        for tag in self.languages:
            try:
                canonical = normalise(tag)
            except ValueError as error:
                raise TaskError(f"task {self.name}: {error}") from None
            if canonical != tag:
                raise TaskError(f"task {self.name}: write the language {tag!r} as {canonical!r}")


def table_of(rows: Iterable[Sequence[str]], schema: pa.Schema) -> pa.Table:
    """Rows of strings as a table; read as a stream, so that at most `_BATCH` of them are Python objects at a time."""
    stream, batches = iter(rows), []
    while batch := list(islice(stream, _BATCH)):
        columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _positions(values: pa.ChunkedArray, among: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    found = pc.index_in(values, value_set=among.combine_chunks())
    return np.asarray(found.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.int64)
