"""A saved index: documents, their vectors and their FAISS indexes in a folder, for `hbt index`.

INDEX/index.json             languages, sizes, kind of index, and the encoder of the documents
INDEX/<language>.arrow       doc_id, language, text, and the order number of each document; memory-mapped
INDEX/<language>.npy         vectors, [documents, width], float32
INDEX/<language>.faiss       the index, unless it is `Flat`
INDEX/checksums.json         checksums of these files, which are compared when they are opened

A search runs in one process, without Ray. Exact search reads the vectors block by block, so it needs the memory of one
block. `read_documents` reads the documents of a new index from a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from hbt_ray.data.formats.records import read_records
from hbt_ray.data.formats.source_row import BadRowError, text_values, unstorable_reason, without_bad_rows
from hbt_ray.errors import DamagedFile, SourceError, TaskError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.search.exact_scores import NO_KEY, Floats, Integers, checked_vectors, key_orders, key_scores
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.shard import VectorShard, top_keys
from hbt_ray.retrieval.tasks.task import DOCUMENTS, table_of
from hbt_ray.retrieval.vectors import VectorFile, create_vector_file
from hbt_ray.storage import CHECKSUMS, Name, atomic_folder, checked_file, is_unused, write_checksums, write_json

_MANIFEST = "index.json"
_BLOCK = 65_536


class IndexManifest(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    """Version of the folder's layout."""
    encoder: EncoderConfig
    """Encoder of the documents; queries must be encoded by it as well."""
    fingerprint: str
    """Fingerprint of the encoder's vectors."""
    index: IndexConfig
    """Kind of index of each language."""
    width: int
    """Width of the vectors."""
    languages: dict[Name, int]
    """Language → number of documents."""


class FoundDocument(NamedTuple):
    """A document that a search found, with its score."""

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
    """Names of the files that were compared with their checksums already."""

    @classmethod
    def load(cls, folder: Path) -> SavedIndex:
        """Open an index.

        Raises:
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
        return cls(folder, manifest)

    def search(
        self, queries: Floats, fingerprint: str, k: int, languages: Collection[str] = (), threads: int = 1
    ) -> list[list[FoundDocument]]:
        """The first k documents (fewer if there are fewer) of each query, best first: queries [n, width].

        Args:
            fingerprint: fingerprint of the encoder of the queries.
            languages: search only these; empty means all.

        Raises:
            TaskError: another encoder or width, a vector that is not finite, an unknown language, or k < 1.
        """
        self._check(fingerprint, k, languages)
        checked = checked_vectors(queries, lambda row: f"query number {row}", self.manifest.width)
        chosen = [language for language in self.manifest.languages if not languages or language in languages]
        tables = [self._documents(language) for language in chosen]
        orders = [table["order"].to_numpy() for table in tables]
        # A generator, so that one shard is open at a time.
        shards = (self._shard(language, order, threads) for language, order in zip(chosen, orders, strict=True))
        merged = top_keys(np.hstack([shard.search(checked, k) for shard in shards]), k)

        def found_document(order: int, score: float) -> FoundDocument:
            for table, table_orders in zip(tables, orders, strict=True):
                row = int(np.searchsorted(table_orders, order))  # `save_index` writes order numbers ascending.
                if row < len(table_orders) and table_orders[row] == order:
                    document = table.slice(row, 1).to_pylist()[0]
                    return FoundDocument(score, document["doc_id"], document["language"], document["text"])
            raise TaskError(
                f"{self.folder}: its files do not belong together; build the index again", code="INVALID_INDEX"
            )

        answers = []
        for row in merged:
            keys = row[row != NO_KEY]
            answers.append(list(map(found_document, key_orders(keys).tolist(), key_scores(keys).tolist())))
        return answers

    def _check(self, fingerprint: str, k: int, languages: Collection[str]) -> None:
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
        if path := self._checked(f"{language}.faiss"):  # missing for `Flat` and for too few documents
            import faiss

            built = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        vectors = VectorFile(self._required(f"{language}.npy"))
        return VectorShard(orders, vectors, threads, self.manifest.index, built)

    def _documents(self, language: str) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._required(f"{language}.arrow")))).read_all()

    def _required(self, name: str) -> Path:
        if path := self._checked(name):
            return path
        raise DamagedFile(str(self.folder / name), "it is missing")

    def _checked(self, name: str) -> Path | None:
        """The path of a file, compared with its checksum when it is first opened; None if there is none."""
        if name not in self._verified:
            try:
                checked_file(self.folder, name)
            except FileNotFoundError:
                return None
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
        fingerprint: fingerprint of the encoder's vectors.
        advance: called after each language with the number of its documents.

    Raises:
        ConfigError: FAISS has no such index.
        TaskError: no documents, or a vector that is not finite.
    """
    if not len(documents):
        raise TaskError(f"{folder}: there are no documents to index", code="INVALID_CORPUS")
    folder = check_index_folder(folder)
    index.empty(vectors.shape[1])  # Refuse an unknown index before anything is written.
    language_of = np.asarray(documents["language"].to_pylist())
    ids = documents["doc_id"].to_pylist()
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__))  # The greater id wins a tie, as in trec_eval.
    # The inverse permutation gives each row its order number.
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
    rows: Integers,
    index: IndexConfig,
    threads: int,
) -> None:
    ids: Sequence[str] = documents["doc_id"].to_pylist()
    path = folder / f"{language}.npy"
    file = create_vector_file(path, (len(rows), vectors.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = vectors[rows[start : start + _BLOCK]]
        file[start : start + _BLOCK] = checked_vectors(block, lambda row, first=start: f"document {ids[first + row]!r}")  # type: ignore[misc]
    file.flush()
    with pa.OSFile(str(folder / f"{language}.arrow"), "wb") as sink, pa.ipc.new_file(sink, documents.schema) as writer:
        writer.write_table(documents, max_chunksize=_BLOCK)
    if not index.exact and not index.too_few(len(rows), vectors.shape[1]):
        import faiss

        # FAISS can only write indexes of the CPU.
        built = index.model_copy(update={"gpu": False}).build(VectorFile(path), threads)
        faiss.write_index(built, str(folder / f"{language}.faiss"))


def read_documents(path: Path, languages: Sequence[str] = ()) -> pa.Table:
    """Documents of a JSON Lines, Parquet or other table file: columns doc_id, language, text.

    Ids and texts are read as they are stored; a text that looks like a number or a date stays a text.

    Args:
        languages: keep only these; empty means all.

    Raises:
        TaskError: the file is missing or of another format, a column is missing, a value is empty, an id occurs twice,
            a language is unknown, or no document is left.
    """
    kept = set(map(normalise_tag, languages))
    try:
        table = table_of((row for row in _rows(path) if not kept or row[1] in kept), DOCUMENTS, str(path))
    except SourceError as error:
        raise TaskError(str(error), code=error.code) from None
    problem = f"has no documents{' in ' + ', '.join(languages) if languages else ''}" if not len(table) else ""
    if len(table["doc_id"].unique()) < len(table):
        problem = "some doc_id occur twice; ids must be unique over all languages"
    if problem:
        raise TaskError(f"{path}: {problem}", code="INVALID_CORPUS")
    return table


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    columns = {name: name for name in DOCUMENTS.names}
    for record in without_bad_rows(read_records(str(path), DOCUMENTS.names)):
        values = text_values(record, columns, numbers=("doc_id",))
        for name, value in values.items():
            if problem := unstorable_reason(value):
                raise BadRowError(record.where, f"column {name!r} holds {problem}")
            if not value.strip():
                raise BadRowError(record.where, f"column {name!r} is empty")
        try:
            values["language"] = normalise_tag(values["language"])
        except ValueError as error:
            raise BadRowError(record.where, str(error)) from None
        yield tuple(values[name] for name in DOCUMENTS.names)
