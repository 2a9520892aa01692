"""The retrieval task: documents and queries in some languages, and judgements of relevance (qrels).

A task is valid once it is made: ids are unique over all languages, every judgement names a query of the task, and every
query has a relevant document, so that no measure divides by zero. Oddities of published benchmarks that have one
meaning are accepted and counted in a warning: a repeated row, a relevant document that the corpus lacks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.formats.source_row import unstorable_reason
from hbt_ray.errors import TaskError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.retrieval.measures import parse_measure
from hbt_ray.storage import valid_name

logger = logging.getLogger(__name__)

DOCUMENTS = pa.schema([(name, pa.string()) for name in ("doc_id", "language", "text")])
QUERIES = pa.schema([(name, pa.string()) for name in ("query_id", "language", "text")])
QRELS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int64())])
Integers = npt.NDArray[np.int64]
_BATCH_ROWS = 10_000
_KEYS = {"documents": ("doc_id",), "queries": ("query_id",), "qrels": ("query_id", "doc_id")}


@dataclass(frozen=True, eq=False)
class Task:
    """One retrieval task; queries without any relevant document are dropped and counted.

    A query whose id is also that of a document is itself a document of the corpus (ArguAna, Quora). As in BEIR and
    mteb, that document is left out of the query's ranking, unless it is judged relevant.

    Raises:
        InputError: the name cannot be the name of a folder.
        TaskError: wrong columns, no documents, no text in any of them, no query with a relevant document, an id of two
            different rows, a language tag that is not in canonical spelling, a judgement that names an unknown query,
            no relevant document in the corpus, or a measure that `measures.parse` does not know.
    """

    name: str
    documents: pa.Table
    """Columns doc_id, language, text."""
    queries: pa.Table
    """Columns query_id, language, text."""
    qrels: pa.Table
    """Columns query_id, doc_id and optionally relevance, a whole number; only pairs of relevance 1 or more are kept.
    Without that column all pairs have relevance 1."""
    measures: tuple[str, ...] = ()
    """Measures under which the benchmark is published, as `ir-measures` names: measured beside the default measures,
    and shown instead of them."""
    ignore_identical_ids: bool = True
    """Leave the document with the id of the query out of its ranking."""
    num_dropped: int = field(init=False, default=0)
    """Number of queries that were dropped because they have no relevant document."""
    num_missing: int = field(init=False, default=0)
    """Number of relevant documents, counted once a query, that the corpus lacks. They count as never found, in the
    language of the query."""

    def __post_init__(self) -> None:
        valid_name(self.name, "task")
        if "relevance" not in self.qrels.column_names:
            ones = pa.array(np.ones(self.qrels.num_rows, np.int64))
            object.__setattr__(self, "qrels", self.qrels.append_column("relevance", ones))
        for attribute, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS)):
            object.__setattr__(self, attribute, self._unique(attribute, self._checked(attribute, schema)))
        object.__setattr__(self, "qrels", self.qrels.filter(pc.greater_equal(self.qrels["relevance"], 1)))
        if not self.documents.num_rows:
            raise TaskError(
                f"task {self.name}: the corpus is empty, so nothing can be found; check the task's folder",
                code="EMPTY_CORPUS",
            )
        self._check_measures()
        self._check_texts()
        self._check_judgements()
        self._drop_queries_without_relevant()
        self._check_languages()
        self._warn_of_grades_and_identical_ids()

    @classmethod
    def from_rows(
        cls,
        name: str,
        documents: Iterable[Sequence[str]],
        queries: Iterable[Sequence[str]],
        qrels: Iterable[Sequence[str | int]],
        measures: tuple[str, ...] = (),
    ) -> Task:
        """A task from rows, each in the order of its table's columns; qrels with or without relevance."""
        judgements = ((*row, 1)[:3] for row in qrels)
        return cls(
            name,
            table_of(documents, DOCUMENTS, f"task {name}"),
            table_of(queries, QUERIES, f"task {name}"),
            table_of(judgements, QRELS, f"task {name}"),
            measures,
        )

    @cached_property
    def languages(self) -> list[str]:
        """All languages of documents and queries, sorted."""
        tables = (self.documents, self.queries)
        return sorted({tag for table in tables for tag in table["language"].unique().to_pylist()})

    @property
    def relevant(self) -> Integers:
        """Rows of `documents` that are relevant, int64 [queries, most relevant documents of any query].

        Ascending, then -1 for documents that the corpus lacks and as padding; `grades` tells these two apart.
        """
        return self._relevant_and_grades[0]

    @property
    def grades(self) -> Integers:
        """Relevance of the documents in `relevant`, of the same shape; 0 as padding."""
        return self._relevant_and_grades[1]

    @cached_property
    def _relevant_and_grades(self) -> tuple[Integers, Integers]:
        query = _positions(self.qrels["query_id"], self.queries["query_id"])
        document = _positions(self.qrels["doc_id"], self.documents["doc_id"])
        # By query, then by document; documents that the corpus lacks come last.
        order = np.lexsort((np.where(document < 0, self.documents.num_rows, document), query))
        query, document = query[order], document[order]
        counts = np.bincount(query, minlength=self.queries.num_rows)
        rows = np.full((len(counts), int(counts.max())), -1, dtype=np.int64)
        grades = np.zeros(rows.shape, dtype=np.int64)
        # Position of each pair among those of its query.
        column = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows[query, column] = document
        grades[query, column] = self.qrels["relevance"].to_numpy()[order]
        return rows, grades

    @cached_property
    def own_documents(self) -> Integers:
        """Row of the document that is the query itself and is left out of its ranking, else -1; int64 [queries]."""
        if not self.ignore_identical_ids:
            return np.full(self.queries.num_rows, -1, dtype=np.int64)
        rows = _positions(self.queries["query_id"], self.documents["doc_id"])
        return np.where((self.relevant == rows[:, None]).any(axis=1), -1, rows)

    @cached_property
    def num_identical_ids(self) -> int:
        """Number of queries whose own document is left out."""
        return int((self.own_documents >= 0).sum())

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of queries, documents and judgements, whatever the order of their rows.

        Results of two tasks can be compared if their fingerprints are equal, even if their names differ.
        """
        parts = [str(rows_digest(table)) for table in (self.documents, self.queries, self.qrels)]
        return hashlib.sha256(" ".join([*parts, str(self.num_identical_ids)]).encode()).hexdigest()[:16]

    def _checked(self, attribute: str, schema: pa.Schema) -> pa.Table:
        table: pa.Table = getattr(self, attribute)
        missing = set(schema.names) - set(table.column_names)
        if missing:
            raise TaskError(
                f"task {self.name}: {attribute} lack the columns {', '.join(sorted(missing))}", code="COLUMNS"
            )
        try:
            table = table.select(schema.names).cast(schema)
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise TaskError(
                f"task {self.name}: {attribute} have columns of another type ({reason})", code="COLUMNS"
            ) from None
        for column in schema.names:
            if table[column].null_count:
                raise TaskError(
                    f"task {self.name}: {attribute}.{column} has nulls; every row needs a value", code="NULL_VALUE"
                )
            if schema.field(column).type == pa.string() and len(bad := with_nul(table, column)):
                row = _shown(bad.column(0)[0].as_py())
                raise TaskError(
                    f"task {self.name}: {attribute}.{column} of {row} holds a NUL character; remove it, since many "
                    "programs end a text there",
                    code="NUL",
                )
        return table

    def _unique(self, attribute: str, table: pa.Table) -> pa.Table:
        """The table without repeated rows, which are counted in a warning.

        Raises:
            TaskError: two rows have one id and differ in another column.
        """
        keys = _joined(table, _KEYS[attribute])
        if len(keys.unique()) == len(keys):
            return table
        counts = keys.value_counts()
        repeated_keys = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        rows = np.flatnonzero(pc.is_in(keys, value_set=repeated_keys).to_numpy())
        first: dict[tuple[str, ...], tuple[str | int, ...]] = {}
        repeated = []
        for row, values in zip(rows.tolist(), table.take(pa.array(rows)).to_pylist(), strict=True):
            key, content = tuple(values[name] for name in _KEYS[attribute]), tuple(values.values())
            if key not in first:
                first[key] = content
            elif first[key] == content:
                repeated.append(row)
            else:
                raise TaskError(
                    f"task {self.name}: {_shown(' '.join(key))} occurs twice in {attribute} with different values, so "
                    "it is unclear which counts; ids must be unique over all languages",
                    code="CONTRADICTION",
                )
        if not repeated:
            return table
        logger.warning(
            "task %s: %d rows of %s are repeated word for word, the first is %s; each is read once",
            self.name, len(repeated), attribute, _shown(" ".join(next(iter(first)))),
        )  # fmt: skip
        kept = np.ones(table.num_rows, dtype=bool)
        kept[repeated] = False
        return table.filter(pa.array(kept))

    def _check_measures(self) -> None:
        for name in self.measures:
            try:
                parse_measure(name)
            except TaskError as error:
                raise TaskError(f"task {self.name}: {error}", code="UNKNOWN_MEASURE") from None

    def _check_texts(self) -> None:
        for attribute, table in (("documents", self.documents), ("queries", self.queries)):
            empty = pc.or_(pc.equal(pc.binary_length(table["text"]), 0), pc.utf8_is_space(table["text"]))
            num_empty = pc.sum(empty).as_py() or 0
            if not num_empty:
                continue
            first = _shown(table.column(0).filter(empty)[0].as_py())
            if num_empty == table.num_rows:
                raise TaskError(
                    f"task {self.name}: all {num_empty} {attribute} are empty or white space, the first is {first}; "
                    "check that the texts were read from the right place",
                    code="EMPTY_TEXT",
                )
            logger.warning(
                "task %s: %d of %d %s are empty or white space, the first is %s; they stay, as ids without meaning",
                self.name, num_empty, table.num_rows, attribute, first,
            )  # fmt: skip

    def _check_judgements(self) -> None:
        unknown = _unknown(self.qrels["query_id"], self.queries["query_id"])
        if len(unknown):
            raise TaskError(
                f"task {self.name}: {len(unknown)} qrels name a query_id that queries do not have, the first is "
                f"{_shown(unknown[0].as_py())}; add it to queries or remove the judgement",
                code="UNKNOWN_QUERY",
            )
        missing = _unknown(self.qrels["doc_id"], self.documents["doc_id"])
        if len(missing) and len(missing) == self.qrels.num_rows:
            raise TaskError(
                f"task {self.name}: none of the {len(missing)} documents that answer a query is in the corpus, the "
                f"first is {_shown(missing[0].as_py())}; check that the qrels use the ids of this corpus",
                code="UNKNOWN_DOCUMENTS",
            )
        if len(missing):
            logger.warning(
                "task %s: the corpus lacks %d of %d documents that answer a query, the first is %s; they count as not "
                "found, so that recall cannot reach 1",
                self.name, len(missing), self.qrels.num_rows, _shown(missing[0].as_py()),
            )  # fmt: skip
            object.__setattr__(self, "num_missing", len(missing))

    def _drop_queries_without_relevant(self) -> None:
        ids = self.queries["query_id"]
        answered = pc.is_in(ids, value_set=self.qrels["query_id"].combine_chunks())
        dropped = ids.filter(pc.invert(answered))
        if len(dropped) == len(ids):
            raise TaskError(
                f"task {self.name}: none of its {len(ids)} queries has a relevant document, so nothing can be "
                "measured; check that the qrels use the ids of this corpus",
                code="NO_RELEVANT_DOCUMENT",
            )
        if len(dropped):
            logger.warning(
                "task %s: %d of %d queries have no relevant document and are left out, the first is %s",
                self.name, len(dropped), len(ids), _shown(dropped[0].as_py()),
            )  # fmt: skip
            object.__setattr__(self, "queries", self.queries.filter(answered))
            object.__setattr__(self, "num_dropped", len(dropped))

    def _check_languages(self) -> None:
        for tag in self.languages:
            try:
                canonical = normalise_tag(tag)
            except ValueError as error:
                raise TaskError(f"task {self.name}: {error}", code="INVALID_LANGUAGE") from None
            if canonical != tag:
                raise TaskError(
                    f"task {self.name}: write the language {tag!r} as {canonical!r}", code="INVALID_LANGUAGE"
                )

    def _warn_of_grades_and_identical_ids(self) -> None:
        graded = pc.sum(pc.greater(self.qrels["relevance"], 1)).as_py()
        if graded:
            logger.warning(
                "task %s: %d of %d relevant pairs have a grade above 1; nDCG weighs documents by their grades, all "
                "other measures count each of them as relevant",
                self.name, graded, self.qrels.num_rows,
            )  # fmt: skip
        if self.num_identical_ids:
            logger.warning(
                "task %s: %d of %d queries have the id of a document, which is left out of the query's ranking as in "
                "BEIR",
                self.name, self.num_identical_ids, self.queries.num_rows,
            )  # fmt: skip


def table_of(rows: Iterable[Sequence[str | int]], schema: pa.Schema, origin: str) -> pa.Table:
    """Rows as a table; read as a stream, so that at most `_BATCH_ROWS` of them are Python objects at a time.

    Args:
        origin: where the rows come from, for errors.

    Raises:
        TaskError: a value of another type, or text with half a surrogate pair.
    """
    stream, batches = iter(rows), []
    while batch := list(islice(stream, _BATCH_ROWS)):
        columns = zip(*batch, strict=True)
        try:
            arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
        except (UnicodeEncodeError, OverflowError, ValueError, pa.ArrowException) as error:
            first = next((row for row in batch if unstorable_reason("".join(map(str, row)))), batch[0])
            reason = "half a surrogate pair" if isinstance(error, UnicodeEncodeError) else " ".join(str(error).split())
            where = f"{schema.names[0]} {_shown(str(first[0]))}"
            raise TaskError(f"{origin}: {where}: cannot be read ({reason})", code="BAD_ROW") from None
        batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema)


def rows_digest(table: pa.Table) -> int:
    """Checksum of a table's rows that does not depend on their order: the sum of the rows' SHA-256."""
    total = 0
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            # With the lengths in front no two rows have one encoding.
            encoded = "".join(f"{len(text)}:{text}" for text in map(str, row)).encode()
            total += int.from_bytes(hashlib.sha256(encoded).digest(), "big")
    return total % 2**256


def with_nul(table: pa.Table, column: str) -> pa.Table:
    """The rows whose text has a NUL character."""
    return table.filter(pc.match_substring(table[column], "\0"))


def _shown(text: str) -> str:
    """A text of a file, shortened for a message of one line."""
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def _joined(table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    first, *others = (table[name] for name in names)
    return pc.binary_join_element_wise(first, *others, "\t") if others else first


def _unknown(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.filter(pc.invert(pc.is_in(ids, value_set=known.combine_chunks())))


def _positions(values: pa.ChunkedArray, among: pa.ChunkedArray) -> Integers:
    """The row of each value in `among`, or -1."""
    rows = pc.fill_null(pc.index_in(values, value_set=among.combine_chunks()), -1)
    return np.asarray(rows.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.int64)
