"""A saved index: documents, their vectors and what finds them, in a folder that a person can ask by hand.

INDEX/index.json             what it holds, and which encoder made it
INDEX/<language>.arrow       doc_id, language, text and the place of the id among all, memory-mapped
INDEX/<language>.npy         vectors, [documents, width], float32
INDEX/<language>.faiss       the index, where it is not `Flat`
INDEX/checksums.json         of these files, which are compared with it when they are opened

One process asks it, without Ray: exact search reads vectors from disk
block by block, so it needs no more memory than a block.
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
from hbt_ray.data.formats.source_row import Record, text_values, unstorable_reason
from hbt_ray.errors import DamagedFile, SourceError, TaskError
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.search.exact_scores import NO_KEY, Floats, Integers, checked_vectors, key_orders, key_scores
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.shard import VectorShard, top_keys
from hbt_ray.retrieval.tasks.task import DOCUMENTS, table_of
from hbt_ray.retrieval.vector_file import VectorFile, create_vector_file
from hbt_ray.storage import CHECKSUMS, Name, atomic_folder, checked_file, is_unused, write_checksums, write_json

_ABOUT = "index.json"
_BLOCK = 65_536


class IndexManifest(BaseModel):
    """What `index.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    encoder: EncoderConfig
    fingerprint: str
    """Of the vectors."""
    index: IndexConfig
    width: int
    languages: dict[Name, int]
    """Documents of each."""


class FoundDocument(NamedTuple):
    """One document that was found."""

    score: float
    doc_id: str
    language: str
    text: str


@dataclass(frozen=True)
class SavedIndex:
    """Opened by `load`."""

    folder: Path
    about: IndexManifest
    _sound: set[str] = field(default_factory=set, repr=False, compare=False)
    """Files that this object has compared with their checksums."""

    @classmethod
    def load(cls, folder: Path) -> SavedIndex:
        """Raises:
        TaskError: the folder holds no index, or one of another version.
        DamagedFile: it was changed.
        """
        path = folder / _ABOUT
        if not path.exists():
            raise TaskError(f"{folder}: holds no {_ABOUT}, so it is no index; make one with `hbt index build`")
        try:
            content = checked_file(folder, _ABOUT).read_bytes()
            about = IndexManifest.model_validate_json(content)
        except FileNotFoundError:
            raise DamagedFile(str(folder / CHECKSUMS), f"it is missing or does not name {_ABOUT}") from None
        except ValidationError as error:
            raise TaskError(f"{path}: {error.errors()[0]['msg']}; build the index again") from None
        if about.version != 1:
            raise TaskError(f"{path}: is of version {about.version}, this release reads 1; build the index again")
        return cls(folder, about)

    def search(
        self, queries: Floats, fingerprint: str, k: int, languages: Collection[str] = (), threads: int = 1
    ) -> list[list[FoundDocument]]:
        """The first k documents (fewer where there are fewer) of each query, best first: queries [n, width].

        Args:
            fingerprint: of the encoder that made the queries.
            languages: only these; empty for all.

        Raises:
            TaskError: another encoder or width, a vector that is not finite, an unknown language, or k < 1.
        """
        self._require(fingerprint, k, languages)
        checked = checked_vectors(queries, lambda row: f"query number {row}", self.about.width)
        chosen = [language for language in self.about.languages if not languages or language in languages]
        tables = [self._documents(language) for language in chosen]
        orders = [table["order"].to_numpy() for table in tables]
        shards = (self._shard(language, own, threads) for language, own in zip(chosen, orders, strict=True))
        merged = top_keys(np.hstack([shard.search(checked, k) for shard in shards]), k)

        def answer(order: int, score: float) -> FoundDocument:
            for table, own in zip(tables, orders, strict=True):
                row = int(np.searchsorted(own, order))
                if row < len(own) and own[row] == order:
                    found = table.slice(row, 1).to_pylist()[0]
                    return FoundDocument(score, found["doc_id"], found["language"], found["text"])
            raise TaskError(f"{self.folder}: its files do not belong together; build the index again")

        return [
            [answer(*one) for one in zip(key_orders(own).tolist(), key_scores(own).tolist(), strict=True)]
            for own in (keys[keys != NO_KEY] for keys in merged)
        ]

    def _require(self, fingerprint: str, k: int, languages: Collection[str]) -> None:
        if fingerprint != self.about.fingerprint:
            raise TaskError(
                f"{self.folder} holds vectors of an encoder with fingerprint {self.about.fingerprint} "
                f"({self.about.encoder.model}), the query comes from one with {fingerprint}: their vectors have "
                "nothing to do with each other. Ask with that encoder, or build the index again"
            )
        if k < 1:
            raise TaskError(f"k={k} asks for no documents; ask for at least one")
        if unknown := sorted(set(languages) - set(self.about.languages)):
            raise TaskError(f"{self.folder}: no documents in {unknown[0]!r}; it has {', '.join(self.about.languages)}")

    def _shard(self, language: str, orders: Integers, threads: int) -> VectorShard:
        built = None
        with suppress(FileNotFoundError):  # `Flat`, or too few documents.
            path = self._checked(f"{language}.faiss")
            import faiss

            built = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        return VectorShard(orders, VectorFile(self._required(f"{language}.npy")), threads, self.about.index, built)

    def _documents(self, language: str) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._required(f"{language}.arrow")))).read_all()

    def _required(self, name: str) -> Path:
        try:
            return self._checked(name)
        except FileNotFoundError:
            raise DamagedFile(str(self.folder / name), "it is missing") from None

    def _checked(self, name: str) -> Path:
        """Compared with its checksum when it is first opened."""
        if name not in self._sound:
            checked_file(self.folder, name)
            self._sound.add(name)
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
    """Write documents (doc_id, language, text) with their vectors [documents, width]; `advance` hears of documents.

    Raises:
        ConfigError: FAISS does not know the index.
        TaskError: no documents, or a vector that is not finite.
    """
    if not len(documents):
        raise TaskError(f"{folder}: there are no documents to index")
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
        about = IndexManifest(
            encoder=encoder, fingerprint=fingerprint, index=index, width=vectors.shape[1], languages=counts
        )
        write_json(scratch / _ABOUT, about.model_dump(mode="json"))
        write_checksums(scratch)
    return SavedIndex(folder, about)


def check_index_folder(folder: Path) -> Path:
    """The absolute path of a folder where an index may be written: nothing is there, or another index.

    Raises:
        TaskError: something else is there.
    """
    folder = Path(os.path.abspath(folder))  # `..` would be replaced whole.
    if not is_unused(folder) and not (folder / _ABOUT).is_file():
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
        some = ids[start : start + _BLOCK]
        file[start : start + _BLOCK] = checked_vectors(
            vectors[rows[start : start + _BLOCK]],
            lambda row, some=some: f"document {some[row]!r}",  # type: ignore[misc]
        )
    file.flush()
    with pa.OSFile(str(folder / f"{language}.arrow"), "wb") as sink, pa.ipc.new_file(sink, documents.schema) as writer:
        writer.write_table(documents, max_chunksize=_BLOCK)
    if not index.exact and not index.too_few(len(rows), vectors.shape[1]):
        import faiss

        built = index.model_copy(update={"gpu": False}).build(VectorFile(path), threads)
        faiss.write_index(built, str(folder / f"{language}.faiss"))


def read_documents(path: Path, languages: Sequence[str] = ()) -> pa.Table:
    """Columns doc_id, language, text; with `languages` only these.

    Ids and texts are read as they are stored: nothing is made of a text that looks like a number or a date.

    Raises:
        TaskError: no file or of another format, columns that are missing, an empty value, an id twice, an unknown
            language, or nothing that is left.
    """
    try:
        table = table_of(_rows(path), DOCUMENTS, str(path))
    except SourceError as error:
        raise TaskError(str(error), code=error.code) from None
    for name in DOCUMENTS.names:
        empty = pc.equal(pc.utf8_trim_whitespace(table[name]), "")
        if count := pc.sum(empty).as_py():
            at = pc.index(empty, True).as_py()
            raise TaskError(f"{path}: {name} is empty in {count} rows, the first is row {at + 1}; remove these rows")
    table = table.set_column(1, DOCUMENTS.field("language"), [_canonical(path, table["language"])])
    if languages:
        table = table.filter(
            pc.is_in(table["language"], value_set=pa.array(map(normalise_tag, languages), pa.string()))
        )
    if not len(table):
        raise TaskError(f"{path}: has no documents{' in ' + ', '.join(languages) if languages else ''}")
    if len(table["doc_id"].unique()) < len(table):
        raise TaskError(f"{path}: some doc_id occur twice; ids must be unique over all languages")
    return table


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    columns = {name: name for name in DOCUMENTS.names}
    for record in read_records(str(path), DOCUMENTS.names):
        found = text_values(record, columns, numbers=("doc_id",)) if isinstance(record, Record) else record
        if not isinstance(found, dict):
            raise TaskError(f"{found.where}: {found.reason}; repair or remove the row")
        row = tuple(found[name] for name in DOCUMENTS.names)
        if problem := next(filter(None, map(unstorable_reason, row)), ""):
            raise TaskError(f"{record.where}: holds {problem}; repair or remove the row")
        yield row


def _canonical(path: Path, tags: pa.ChunkedArray) -> pa.Array:
    known = {}
    for tag in tags.unique().to_pylist():
        try:
            known[tag] = normalise_tag(tag)
        except ValueError as error:
            raise TaskError(f"{path}: {error}") from None
    return pa.array([known[tag] for tag in tags.to_pylist()], pa.string())
