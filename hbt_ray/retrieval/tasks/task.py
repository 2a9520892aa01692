"""The retrieval task: documents and queries in some languages, and judgements of relevance (qrels).

Construction validates a task: ids are unique over all languages, every judgement names a query of the task, and every
query has a relevant document, so that no measure divides by zero. Oddities of published benchmarks with an obvious
meaning are accepted and counted in a warning: a repeated row, a relevant document that the corpus lacks.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.formats.source_row import SourceRow, unstorable_reason
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


@dataclass(frozen=True, eq=False)
class Task:
    """One retrieval task. Queries without a relevant document are dropped and counted.

    If a query has the id of a document, it is that document of the corpus (ArguAna, Quora). As in BEIR and mteb, the
    document is left out of the query's ranking, unless it is judged relevant.

    Raises:
        InputError: the name cannot be the name of a folder.
        TaskError: wrong columns, no documents, only empty texts, no query with a relevant document, different rows with
            one id, a language tag that is not in canonical spelling, a judgement that names an unknown query, no
            relevant document in the corpus, or a measure that `measures.parse_measure` refuses.
    """

    name: str
    documents: pa.Table
    """Columns doc_id, language, text."""
    queries: pa.Table
    """Columns query_id, language, text."""
    qrels: pa.Table
    """Columns query_id, doc_id and optionally relevance, a whole number; only pairs with relevance 1 or more are kept.
    Without that column, all pairs have relevance 1."""
    measures: tuple[str, ...] = ()
    """Measures under which the benchmark is published, as `ir-measures` names. They are computed beside the default
    measures and shown instead of them."""
    ignore_identical_ids: bool = True
    """Leave the document with the id of the query out of its ranking."""
    num_dropped: int = field(init=False, default=0)
    """Number of queries that were dropped because they have no relevant document."""
    num_missing: int = field(init=False, default=0)
    """Number of relevant documents, counted once per query, that the corpus lacks. They count as never found, in the
    language of the query."""

    def __post_init__(self) -> None:
        valid_name(self.name, "task")
        if "relevance" not in self.qrels.column_names:
            self._set("qrels", self.qrels.append_column("relevance", pa.array(np.ones(len(self.qrels), np.int64))))
        keys = {"documents": ["doc_id"], "queries": ["query_id"], "qrels": ["query_id", "doc_id"]}
        for attribute, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS)):
            self._set(
                attribute, self._without_repeated_rows(attribute, self._checked(attribute, schema), keys[attribute])
            )
        # Only now, so that a contradiction is found even if one of its rows has relevance 0.
        self._set("qrels", self.qrels.filter(pc.greater_equal(self.qrels["relevance"], 1)))
        if not self.documents.num_rows:
            raise self._error("the corpus is empty, so nothing can be found; check its folder", code="EMPTY_CORPUS")
        for measure in self.measures:
            try:
                parse_measure(measure)
            except TaskError as error:
                raise self._error(str(error), code="UNKNOWN_MEASURE") from None
        self._check_texts()
        self._check_judgements()
        self._drop_queries_without_relevant()
        self._check_languages()
        if graded := pc.sum(pc.greater(self.qrels["relevance"], 1)).as_py():
            self._warn(
                f"{graded} of {len(self.qrels)} relevant pairs have a grade above 1; nDCG weighs documents by their "
                "grades, all other measures count each of them as relevant"
            )
        if self.num_identical_ids:
            self._warn(
                f"{self.num_identical_ids} of {len(self.queries)} queries have the id of a document, which is left out "
                "of the query's ranking as in BEIR"
            )

    @classmethod
    def from_rows(
        cls,
        name: str,
        documents: Iterable[Sequence[str]],
        queries: Iterable[Sequence[str]],
        qrels: Iterable[Sequence[str | int]],
        measures: tuple[str, ...] = (),
    ) -> Task:
        """A task from rows, each in the order of its table's columns; a qrel may leave out its relevance."""
        origin = f"task {name}"
        # Append relevance 1; a row that has a relevance loses the appended one again.
        judgements = table_of(((*row, 1)[:3] for row in qrels), QRELS, origin)
        tables = (table_of(documents, DOCUMENTS, origin), table_of(queries, QUERIES, origin), judgements)
        return cls(name, *tables, measures)

    @cached_property
    def languages(self) -> list[str]:
        """All languages of documents and queries, sorted."""
        tables = (self.documents, self.queries)
        return sorted({tag for table in tables for tag in table["language"].unique().to_pylist()})

    @property
    def relevant(self) -> Integers:
        """Rows of the relevant `documents` of each query, int64 [queries, most relevant documents of any query].

        Rows ascend; then follow -1 for documents that the corpus lacks, and -1 as padding, which has the grade 0.
        """
        return self._relevant_and_grades[0]

    @property
    def grades(self) -> Integers:
        """Relevance of the documents in `relevant`, in the same shape; 0 as padding."""
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
        # Without such a document the row is -1, and stays so whether or not it equals padding.
        return np.where((self.relevant == rows[:, None]).any(axis=1), -1, rows)

    @cached_property
    def num_identical_ids(self) -> int:
        """Number of queries whose own document is left out of their ranking."""
        return int((self.own_documents >= 0).sum())

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of queries, documents and judgements; the order of their rows does not matter.

        Results of two tasks can be compared if their fingerprints are equal, even if their names differ.
        """
        # The last part tells apart tasks that differ in `ignore_identical_ids` only.
        parts = [str(rows_digest(table)) for table in (self.documents, self.queries, self.qrels)]
        return hashlib.sha256(" ".join([*parts, str(self.num_identical_ids)]).encode()).hexdigest()[:16]

    def _set(self, attribute: str, value: Any) -> None:
        object.__setattr__(self, attribute, value)  # The class is frozen; only `__post_init__` may set attributes.

    def _error(self, problem: str, *, code: str) -> TaskError:
        return TaskError(f"task {self.name}: {problem}", code=code)

    def _warn(self, problem: str) -> None:
        logger.warning("task %s: %s", self.name, problem)

    def _checked(self, attribute: str, schema: pa.Schema) -> pa.Table:
        """The table with the columns and types of the schema, without nulls and NUL characters."""
        table: pa.Table = getattr(self, attribute)
        if missing := sorted(set(schema.names) - set(table.column_names)):
            raise self._error(f"{attribute} lack the columns {', '.join(missing)}", code="COLUMNS")
        try:
            table = table.select(schema.names).cast(schema)
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise self._error(f"{attribute} have columns of another type ({reason})", code="COLUMNS") from None
        for column in schema.names:
            if table[column].null_count:
                raise self._error(f"{attribute}.{column} has nulls; every row needs a value", code="NULL_VALUE")
            if schema.field(column).type == pa.string() and (row := first_with_nul(table, column)):
                raise self._error(
                    f"{attribute}.{column} of {_shown(next(iter(row.values())))} holds a NUL character; remove it, "
                    "since many programs end a text there",
                    code="NUL",
                )
        return table

    def _without_repeated_rows(self, attribute: str, table: pa.Table, key: list[str]) -> pa.Table:
        """The table without repeated rows; rows with one id that differ in another column are an error."""
        # No id contains NUL, so no two keys have one joined text.
        keys = pc.binary_join_element_wise(*(table[name] for name in key), "\0").combine_chunks()
        # Codes are numbered in the order of first appearance, so `first`, the first row of each id, ascends.
        codes = keys.dictionary_encode().indices.to_numpy()
        _, first = np.unique(codes, return_index=True)
        repeated = np.setdiff1d(np.arange(len(codes)), first)
        if not len(repeated):
            return table
        originals = table.take(pa.array(first[codes[repeated]])).to_pylist()
        for row, original in zip(table.take(pa.array(repeated)).to_pylist(), originals, strict=True):
            if row != original:
                raise self._error(
                    f"{_shown(' '.join(row[name] for name in key))} occurs twice in {attribute} with different values, "
                    "so it is unclear which counts; ids must be unique over all languages",
                    code="CONTRADICTION",
                )
        self._warn(
            f"{len(repeated)} rows of {attribute} are repeated word for word, the first is "
            f"{_shown(' '.join(originals[0][name] for name in key))}; each is read once"
        )
        return table.filter(pa.array(np.isin(np.arange(len(codes)), first)))

    def _check_texts(self) -> None:
        for attribute, table in (("documents", self.documents), ("queries", self.queries)):
            empty = table.filter(is_empty(table["text"]))
            if not len(empty):
                continue
            first = _shown(empty.column(0)[0].as_py())
            problem = f"{len(empty)} of {len(table)} {attribute} are empty or white space, the first is {first}"
            if len(empty) == len(table):
                raise self._error(f"{problem}; check that the texts were read from the right place", code="EMPTY_TEXT")
            self._warn(f"{problem}; they stay, as ids without meaning")

    def _check_judgements(self) -> None:
        unknown = _unknown(self.qrels["query_id"], self.queries["query_id"])
        if len(unknown):
            raise self._error(
                f"{len(unknown)} qrels name a query_id that queries do not have, the first is "
                f"{_shown(unknown[0].as_py())}; add it to queries or remove the judgement",
                code="UNKNOWN_QUERY",
            )
        missing = _unknown(self.qrels["doc_id"], self.documents["doc_id"])
        if len(missing) and len(missing) == self.qrels.num_rows:
            raise self._error(
                f"none of the {len(missing)} documents that answer a query is in the corpus, the first is "
                f"{_shown(missing[0].as_py())}; check that the qrels use the ids of this corpus",
                code="UNKNOWN_DOCUMENTS",
            )
        if len(missing):
            self._warn(
                f"the corpus lacks {len(missing)} of {len(self.qrels)} documents that answer a query, the first is "
                f"{_shown(missing[0].as_py())}; they count as not found, so that recall cannot reach 1"
            )
            self._set("num_missing", len(missing))

    def _drop_queries_without_relevant(self) -> None:
        dropped = _unknown(self.queries["query_id"], self.qrels["query_id"])
        if len(dropped) == len(self.queries):
            raise self._error(
                f"none of its {len(dropped)} queries has a relevant document, so nothing can be measured; check that "
                "the qrels use the ids of this corpus",
                code="NO_RELEVANT_DOCUMENT",
            )
        if len(dropped):
            self._warn(
                f"{len(dropped)} of {len(self.queries)} queries have no relevant document and are left out, the first "
                f"is {_shown(dropped[0].as_py())}"
            )
            self._set("num_dropped", len(dropped))
            answered = pc.is_in(self.queries["query_id"], value_set=self.qrels["query_id"].combine_chunks())
            self._set("queries", self.queries.filter(answered))

    def _check_languages(self) -> None:
        for tag in self.languages:
            try:
                canonical = normalise_tag(tag)
            except ValueError as error:
                raise self._error(str(error), code="INVALID_LANGUAGE") from None
            if canonical != tag:
                raise self._error(f"write the language {tag!r} as {canonical!r}", code="INVALID_LANGUAGE")


def parallel_task(name: str, rows: Iterable[SourceRow], measures: tuple[str, ...] = ()) -> Task:
    """A task from parallel items: a question of any language is answered by its passage in every language.

    Documents are the distinct passages (`<language>_<passage id>`), queries the questions (`<language>_<item id>`).
    Without `passage_id`, a row has its own passage, whose id is that of the item.

    Raises:
        TaskError: one passage id has two texts in one language, an item occurs twice in a language, or there are no
            rows.
    """
    documents: dict[str, tuple[str, str, str]] = {}
    doc_ids_of_passage: dict[str, list[str]] = defaultdict(list)  # passage id → one document per language
    queries: list[tuple[tuple[str, str, str], str]] = []  # (query, passage id)
    for row in rows:
        passage_id = row.passage_id or row.item_id
        document = (f"{row.language}_{passage_id}", row.language, row.passage)
        if document[0] not in documents:
            documents[document[0]] = document
            doc_ids_of_passage[passage_id].append(document[0])
        elif documents[document[0]] != document:
            raise TaskError(
                f"task {name}: passage {passage_id!r} has two texts in {row.language!r}, the second at "
                f"{row.where or row.item_id}, so it is unclear which one answers; give each text an id of its own",
                code="CONTRADICTION",
            )
        queries.append(((f"{row.language}_{row.item_id}", row.language, row.question), passage_id))
    qrels = [(query_id, doc_id) for (query_id, *_), passage_id in queries for doc_id in doc_ids_of_passage[passage_id]]
    return Task.from_rows(name, documents.values(), [query for query, _ in queries], qrels, measures)


def table_of(rows: Iterable[Sequence[str | int]], schema: pa.Schema, origin: str) -> pa.Table:
    """A table of rows. They are read as a stream: at most `_BATCH_ROWS` of them are Python objects at a time.

    Args:
        origin: source of the rows, for errors.

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
    """Checksum of a table's rows in any order: the sum of the rows' SHA-256, modulo 2^256."""
    total = 0
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            # With the length before each text, no two rows have one encoding.
            encoded = "".join(f"{len(text)}:{text}" for text in map(str, row)).encode()
            total += int.from_bytes(hashlib.sha256(encoded).digest(), "big")
    return total % 2**256


def first_with_nul(table: pa.Table, column: str) -> dict[str, str] | None:
    """The first row whose text has a NUL character; None if there is none."""
    return next(iter(table.filter(pc.match_substring(table[column], "\0")).slice(0, 1).to_pylist()), None)


def is_empty(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each text is empty or white space."""
    return pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))


def _shown(text: str) -> str:
    """A text of a file, shortened for a message of one line."""
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def _unknown(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.filter(pc.invert(pc.is_in(ids, value_set=known.combine_chunks())))


def _positions(values: pa.ChunkedArray, among: pa.ChunkedArray) -> Integers:
    """[values]: the row of each value in `among`, or -1 if it is not there."""
    rows = pc.fill_null(pc.index_in(values, value_set=among.combine_chunks()), -1)
    return np.asarray(rows.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.int64)
