"""A saved index: documents, their vectors and their FAISS indexes in a folder, to search by hand.

INDEX/index.json             what the index holds, and which encoder made it
INDEX/<language>.arrow       doc_id, language, text, and the order number of each document; memory-mapped
INDEX/<language>.npy         vectors, [documents, width], float32
INDEX/<language>.faiss       the index, unless it is `Flat`
INDEX/checksums.json         checksums of these files, which are compared when they are opened

It is searched in one process, without Ray. Exact search reads vectors from disk block by block, so it needs the memory
of one block. `read_documents` reads the documents of a new index from a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from hbt_ray.data.formats.records import read_records
from hbt_ray.data.formats.source_row import BadRow, BadRowError, Record, parse_rows, text_values, unstorable_reason
from hbt_ray.errors import DamagedFile, SourceError, TaskError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.search.exact_scores import NO_KEY, Floats, Integers, checked_vectors, key_orders, key_scores
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.shard import VectorShard, top_keys
from hbt_ray.retrieval.tasks.task import DOCUMENTS, table_of
from hbt_ray.retrieval.vector_file import VectorFile, create_vector_file
from hbt_ray.storage import CHECKSUMS, Name, atomic_folder, checked_file, is_unused, write_checksums, write_json

_MANIFEST = "index.json"
_BLOCK = 65_536


class IndexManifest(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    """Version of the folder's layout."""
    encoder: EncoderConfig
    """The encoder of the documents."""
    fingerprint: str
    """Fingerprint of the encoder's vectors."""
    index: IndexConfig
    """Index of each language."""
    width: int
    """Width of the vectors."""
    languages: dict[Name, int]
    """Language → number of documents."""


class FoundDocument(NamedTuple):
    """One search result."""

    score: float
    doc_id: str
    language: str
    text: str


@dataclass(frozen=True)
class SavedIndex:
    """An index on disk; open it with `load`."""

    folder: Path
    manifest: IndexManifest
    _verified: set[str] = field(default_factory=set, repr=False, compare=False)
    """Files that were compared with their checksums."""

    @classmethod
    def load(cls, folder: Path) -> SavedIndex:
        """Raises:
        TaskError: the folder does not hold an index, or holds one of another version.
        DamagedFile: the index was changed.
        """
        path = folder / _MANIFEST
        if not path.exists():
            raise TaskError(
                f"{folder}: holds no {_MANIFEST}, so it is not an index; make one with `hbt index build`",
                code="INVALID_INDEX",
            )
        try:
            content = checked_file(folder, _MANIFEST).read_bytes()
            manifest = IndexManifest.model_validate_json(content)
        except FileNotFoundError:
            raise DamagedFile(str(folder / CHECKSUMS), f"it is missing or does not name {_MANIFEST}") from None
        except ValidationError as error:
            raise TaskError(
                f"{path}: {error.errors()[0]['msg']}; build the index again", code="INVALID_INDEX"
            ) from None
        if manifest.version != 1:
            raise TaskError(
                f"{path}: is of version {manifest.version}, this release reads 1; build the index again",
                code="INVALID_INDEX",
            )
        return cls(folder, manifest)

    def search(
        self, queries: Floats, fingerprint: str, k: int, languages: Collection[str] = (), threads: int = 1
    ) -> list[list[FoundDocument]]:
        """The first k documents (fewer where there are fewer) of each query, best first: queries [n, width].

        Args:
            fingerprint: of the encoder of the queries.
            languages: search only these; empty for all.

        Raises:
            TaskError: another encoder or width, a vector that is not finite, an unknown language, or k < 1.
        """
        self._require(fingerprint, k, languages)
        checked = checked_vectors(queries, lambda row: f"query number {row}", self.manifest.width)
        chosen = [language for language in self.manifest.languages if not languages or language in languages]
        tables = [self._documents(language) for language in chosen]
        orders = [table["order"].to_numpy() for table in tables]
        shards = (self._shard(language, own, threads) for language, own in zip(chosen, orders, strict=True))
        merged = top_keys(np.hstack([shard.search(checked, k) for shard in shards]), k)

        def found_document(order: int, score: float) -> FoundDocument:
            for table, own in zip(tables, orders, strict=True):
                row = int(np.searchsorted(own, order))
                if row < len(own) and own[row] == order:
                    document = table.slice(row, 1).to_pylist()[0]
                    return FoundDocument(score, document["doc_id"], document["language"], document["text"])
            raise TaskError(
                f"{self.folder}: its files do not belong together; build the index again", code="INVALID_INDEX"
            )

        return [
            [
                found_document(order, score)
                for order, score in zip(key_orders(keys).tolist(), key_scores(keys).tolist(), strict=True)
            ]
            for keys in (row[row != NO_KEY] for row in merged)
        ]

    def _require(self, fingerprint: str, k: int, languages: Collection[str]) -> None:
        if fingerprint != self.manifest.fingerprint:
            raise TaskError(
                f"{self.folder} holds vectors of an encoder with fingerprint {self.manifest.fingerprint} "
                f"({self.manifest.encoder.model}), the query comes from one with {fingerprint}: their vectors "
                "cannot be compared. Search with that encoder, or build the index again",
                code="OTHER_ENCODER",
            )
        if k < 1:
            raise TaskError(f"k={k} asks for no documents; ask for at least one", code="INVALID_SEARCH")
        if unknown := sorted(set(languages) - set(self.manifest.languages)):
            raise TaskError(
                f"{self.folder}: no documents in {unknown[0]!r}; it has {', '.join(self.manifest.languages)}",
                code="INVALID_SEARCH",
            )

    def _shard(self, language: str, orders: Integers, threads: int) -> VectorShard:
        built = None
        with suppress(FileNotFoundError):  # There is none for `Flat`, or for too few documents.
            path = self._checked(f"{language}.faiss")
            import faiss

            built = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        return VectorShard(orders, VectorFile(self._required(f"{language}.npy")), threads, self.manifest.index, built)

    def _documents(self, language: str) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._required(f"{language}.arrow")))).read_all()

    def _required(self, name: str) -> Path:
        try:
            return self._checked(name)
        except FileNotFoundError:
            raise DamagedFile(str(self.folder / name), "it is missing") from None

    def _checked(self, name: str) -> Path:
        """The path of a file, which is compared with its checksum when it is first opened."""
        if name not in self._verified:
            checked_file(self.folder, name)
            self._verified.add(name)
        return self.folder / name


def save_index(
    folder: Path,
    documents: pa.Table,
    vectors: Floats,
    encoder: EncoderConfig,
    fingerprint: str,
    index: IndexConfig,
    threads: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> SavedIndex:
    """Write an index of documents (doc_id, language, text) with their vectors [documents, width].

    Args:
        fingerprint: of the encoder's vectors.
        advance: called with the number of documents that were written.

    Raises:
        ConfigError: FAISS does not know the index.
        TaskError: no documents, or a vector that is not finite.
    """
    if not len(documents):
        raise TaskError(f"{folder}: there are no documents to index", code="INVALID_CORPUS")
    folder = check_index_folder(folder)
    index.empty(vectors.shape[1])
    language_of = np.asarray(documents["language"].to_pylist())
    ids = documents["doc_id"].to_pylist()
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__))  # The greater id wins a tie, as in trec_eval.
    documents = documents.append_column("order", pa.array(np.argsort(by_id)))
    counts = {}
    with atomic_folder(folder) as scratch:
        for language in sorted(set(language_of.tolist())):
            rows = by_id[language_of[by_id] == language]
            _write_shard(scratch, language, documents.take(pa.array(rows)), vectors, rows, index, threads)
            counts[language] = len(rows)
            advance(len(rows))
        manifest = IndexManifest(
            encoder=encoder, fingerprint=fingerprint, index=index, width=vectors.shape[1], languages=counts
        )
        write_json(scratch / _MANIFEST, manifest.model_dump(mode="json"))
        write_checksums(scratch)
    return SavedIndex(folder, manifest)


def check_index_folder(folder: Path) -> Path:
    """The absolute path of a folder that is unused or holds another index, so that an index may be written there.

    Raises:
        TaskError: the folder holds something else.
    """
    folder = Path(os.path.abspath(folder))  # With `..`, the folder above would be replaced.
    if not is_unused(folder) and not (folder / _MANIFEST).is_file():
        raise TaskError(
            f"{folder}: exists but is not an index; nothing was changed. Give another folder", code="NOT_AN_INDEX"
        )
    return folder


def _write_shard(
    folder: Path,
    language: str,
    documents: pa.Table,
    vectors: Floats,
    rows: Any,
    index: IndexConfig,
    threads: int,
) -> None:
    ids: Sequence[str] = documents["doc_id"].to_pylist()
    path = folder / f"{language}.npy"
    file = create_vector_file(path, (len(rows), vectors.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block_ids = ids[start : start + _BLOCK]
        file[start : start + _BLOCK] = checked_vectors(
            vectors[rows[start : start + _BLOCK]],
            lambda row, ids=block_ids: f"document {ids[row]!r}",  # type: ignore[misc]
        )
    file.flush()
    with pa.OSFile(str(folder / f"{language}.arrow"), "wb") as sink, pa.ipc.new_file(sink, documents.schema) as writer:
        writer.write_table(documents, max_chunksize=_BLOCK)
    if not index.exact and not index.too_few(len(rows), vectors.shape[1]):
        import faiss

        built = index.model_copy(update={"gpu": False}).build(VectorFile(path), threads)
        faiss.write_index(built, str(folder / f"{language}.faiss"))


def read_documents(path: Path, languages: Sequence[str] = ()) -> pa.Table:
    """Documents of a JSON Lines, Parquet or other table file: columns doc_id, language, text.

    Ids and texts are read as they are stored; a text that looks like a number or a date stays a text.

    Args:
        languages: keep only these; empty for all.

    Raises:
        TaskError: the file is missing or of another format, a column is missing, a value is empty, an id occurs twice,
            a language is unknown, or no document is left.
    """
    try:
        table = table_of(_rows(path), DOCUMENTS, str(path))
    except SourceError as error:
        raise TaskError(str(error), code=error.code) from None
    for name in DOCUMENTS.names:
        empty = pc.equal(pc.utf8_trim_whitespace(table[name]), "")
        if count := pc.sum(empty).as_py():
            first = pc.index(empty, True).as_py() + 1
            raise _corpus_error(f"{path}: {name} is empty in {count} rows, the first is row {first}; remove these rows")
    tag_of = {}
    for tag in table["language"].unique().to_pylist():
        try:
            tag_of[tag] = normalise_tag(tag)
        except ValueError as error:
            raise _corpus_error(f"{path}: {error}") from None
    tags = pa.array([tag_of[tag] for tag in table["language"].to_pylist()], pa.string())
    table = table.set_column(1, DOCUMENTS.field("language"), [tags])
    if languages:
        kept = pa.array(map(normalise_tag, languages), pa.string())
        table = table.filter(pc.is_in(table["language"], value_set=kept))
    if not len(table):
        raise _corpus_error(f"{path}: has no documents{' in ' + ', '.join(languages) if languages else ''}")
    if len(table["doc_id"].unique()) < len(table):
        raise _corpus_error(f"{path}: some doc_id occur twice; ids must be unique over all languages")
    return table


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    def texts(record: Record) -> tuple[str, ...]:
        row = tuple(text_values(record, {name: name for name in DOCUMENTS.names}, numbers=("doc_id",)).values())
        if problem := next(filter(None, map(unstorable_reason, row)), ""):
            raise BadRowError(record.where, f"holds {problem}")
        return row

    for row in parse_rows(texts, read_records(str(path), DOCUMENTS.names)):
        if isinstance(row, BadRow):
            raise _corpus_error(f"{row.where}: {row.reason}; repair or remove the row")
        yield row


def _corpus_error(message: str) -> TaskError:
    return TaskError(message, code="INVALID_CORPUS")
