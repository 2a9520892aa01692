"""The store: items on disk, and the way back from (item, languages) to texts.

    STORE/manifest.json              what is there; written last, so a folder without it is no store
    STORE/<dataset>/00000.arrow …    Arrow IPC, one row an item: `item_id`, `passage_id`, `passage_key` (int64, equal
                                     where passages are the same by id or text), `right_keys` (keys of other passages
                                     that answer the question), and `question.<lang>`, `passage.<lang>`, perhaps
                                     `answer.<lang>`, null where the item lacks the language
    STORE/rejected.jsonl             rows that `prepare` did not take, with file, line and reason
    STORE/removed.jsonl              items that overlap with the evaluation data, and rows that another item has

Local shards are memory-mapped: opening costs nothing, and of a shard only the columns and record batches are read that
hold a drawn row, each against its checksum (`hbt_ray.data.store.shard_checksums`). A store under a URI is read in the
same units, through a cache on this machine's disk (`hbt_ray.data.store.remote_columns`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hbt_ray.data.index.language_index import LanguageCodes, LanguageIndex
from hbt_ray.data.index.manifest import VERSION, DatasetInfo, Manifest, Shard
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.plan.plan import Batch
from hbt_ray.data.store.columns import ColumnReader, LocalColumnReader, naming_shard_errors
from hbt_ray.data.store.node_cache import DEFAULT_CACHE, NodeCache, NodeCacheConfig
from hbt_ray.data.store.remote_columns import KEY, RIGHT_KEYS, RemoteColumnReader
from hbt_ray.data.store.row_lookup import ItemRows, RowLookup, column_cells, pick, text_cells
from hbt_ray.errors import DamagedFile, StoreError
from hbt_ray.storage import parse_checked_json
from hbt_ray.storage.location import filesystem, is_uri, join_location, with_retries

MANIFEST = "manifest.json"
SIDES = ("question", "passage", "answer")
"""What an item may have in a language; answers are optional."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class BatchTexts:
    """The texts of a batch, row by row."""

    questions: list[str]
    passages: list[str]
    right_keys: NDArray[np.int64]
    """[rows, n]: keys of the passages that answer each row's question (see `Store.right_keys`)."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with all that is stored of it."""

    dataset: str
    item_id: str
    passage_id: str
    texts: dict[str, dict[str, str]]
    """Language → side → text."""


class Store:
    """A prepared store, opened for reading.

    Args:
        path: a folder, or a URI.
        cache: what of a store under a URI stays on this machine's disk.

    Raises:
        StoreError: there is no complete store at `path`, it has another version, or a shard is missing.
    """

    def __init__(self, path: str | Path, cache: NodeCacheConfig = DEFAULT_CACHE) -> None:
        self.location = str(path)
        self.manifest = read_manifest(path)
        self._cache = cache
        self._infos = {info.name: info for info in self.manifest.datasets}
        self._starts = {info.name: _starts(info) for info in self.manifest.datasets}
        self._columns = self._open()

    def _open(self) -> ColumnReader:
        shards = [shard for info in self.manifest.datasets for shard in info.shards]
        if is_uri(self.location):  # To ask for every shard would take as long as to train; the first read will tell.
            return RemoteColumnReader(self.location, shards, NodeCache(self._cache))
        for path in (Path(self.location) / shard.file for shard in shards):
            if not path.is_file():
                raise StoreError(f"{path}: named by the manifest, but missing; prepare the store again")
        return LocalColumnReader(Path(self.location), shards, 4 + len(SIDES) * len(self.manifest.languages))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.location, self._cache)

    def texts(self, batch: Batch, languages: tuple[str, ...]) -> BatchTexts:
        """The texts of a batch's rows; `languages` are the names of its language codes.

        Raises:
            StoreError: a shard cannot be read, or lacks a text that the manifest promises.
        """
        places = self._places(batch.dataset, batch.items)
        questions = text_cells(places, "question", batch.question_languages, languages)
        passages = text_cells(places, "passage", batch.passage_languages, languages)
        asked, found, *keys = self._values(questions, passages, *self._right_cells(batch.dataset, places))
        for cells, values in ((questions, asked), (passages, found)):
            if not all(values):
                unit = cells.units[cells.which[next(n for n, value in enumerate(values) if not value)]]
                raise StoreError(
                    f"{self.location}: {unit.file} lacks values of {unit.column} that the manifest promises; "
                    "`hbt store verify` tells what is damaged"
                )
        return BatchTexts(asked, found, self._right_keys(batch.dataset, *keys))

    def texts_of(
        self, dataset: str, side: str, items: Indices, codes: LanguageCodes, languages: tuple[str, ...]
    ) -> list[str]:
        """Row by row the text of `items[row]` in language `languages[codes[row]]`; empty where the item has none.

        Args:
            side: `question`, `passage` or `answer`.
        """
        (values,) = self._values(text_cells(self._places(dataset, items), side, codes, languages))
        return [value or "" for value in values]

    def passage_keys(self, dataset: str, items: Indices) -> NDArray[np.int64]:
        """The key of each item's passage; equal for equal passages, in any language and dataset."""
        (keys,) = self._values(column_cells(self._places(dataset, items), KEY))
        return np.array(keys, np.int64)

    def right_keys(self, dataset: str, items: Indices) -> NDArray[np.int64]:
        """For each item the keys of the passages that answer its question, [items, n].

        The first is that of the item's own passage. It is repeated where a question has fewer than n, the most that
        any question of the dataset has.
        """
        return self._right_keys(dataset, *self._values(*self._right_cells(dataset, self._places(dataset, items))))

    def _right_cells(self, dataset: str, places: ItemRows) -> list[RowLookup]:
        """The lists are read only if the dataset has any that is not empty."""
        names = (KEY, RIGHT_KEYS) if self._infos[dataset].max_right > 1 else (KEY,)
        return [column_cells(places, name) for name in names]

    def _right_keys(self, dataset: str, own: list[int], others: Sequence[list[int]] = ()) -> NDArray[np.int64]:
        keys = np.repeat(np.array(own, np.int64)[:, None], self._infos[dataset].max_right, axis=1)
        for row, listed in enumerate(others):
            keys[row, 1 : 1 + len(listed)] = listed
        return keys

    def item(self, dataset: str, number: int) -> StoredItem:
        """One item, whole."""
        places = self._places(dataset, np.array([number]))
        cells = {
            (language, side): column_cells(places, f"{side}.{language}")
            for language in self._infos[dataset].languages
            for side in SIDES
        }
        ids = (column_cells(places, "item_id"), column_cells(places, "passage_id"))
        (item_id,), (passage_id,), *values = self._values(*ids, *cells.values())
        texts: dict[str, dict[str, str]] = {}
        for (language, side), (text,) in zip(cells, values, strict=True):
            if text is not None:
                texts.setdefault(language, {})[side] = text
        return StoredItem(dataset, item_id, passage_id, texts)

    def sample_texts(self, languages: tuple[str, ...], limit: int = 20_000) -> Iterator[str]:
        """Questions and passages, at most about `limit` items of each dataset and language, evenly spaced."""
        for info in self.manifest.datasets:
            coverage = LanguageIndex(info, languages, 0.0)
            for code in range(len(languages)):
                pool = coverage.pool(code)
                items = pool.items(np.arange(0, pool.size, max(1, pool.size // limit)))
                for side in ("question", "passage"):
                    for start in range(0, len(items), _ROWS_AT_ONCE):
                        part = items[start : start + _ROWS_AT_ONCE]
                        yield from self.texts_of(info.name, side, part, np.full(len(part), code, np.int16), languages)

    def _places(self, dataset: str, items: Indices) -> ItemRows:
        shards, starts = self._infos[dataset].shards, self._starts[dataset]
        numbers = np.searchsorted(starts, items, side="right") - 1
        rows = items - starts[numbers]
        begins = self._begins({number: shards[number] for number in np.unique(numbers).tolist()})
        found: dict[tuple[int, int], int] = {}
        which = np.empty(len(items), np.int64)
        for position, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            batch = bisect_right(begins[number], row) - 1
            which[position] = found.setdefault((number, batch), len(found))
            rows[position] -= begins[number][batch]
        return ItemRows([shards[number].file for number, _ in found], [batch for _, batch in found], which, rows)

    def _begins(self, shards: dict[int, Shard]) -> dict[int, Sequence[int]]:
        """First row of each record batch of these shards."""
        starts = self._columns.starts([shard.file for shard in shards.values()])
        for shard in shards.values():
            if (held := starts[shard.file][-1]) != shard.num_items:
                raise StoreError(
                    f"{self.location}: {shard.file} holds {held:,} items, but {shard.num_items:,} by the manifest; "
                    "prepare the store again"
                )
        return {number: starts[shard.file] for number, shard in shards.items()}

    def _values(self, *wanted: RowLookup) -> list[list[Any]]:
        """What stands in the cells; None where the shard lacks the column."""
        arrays = self._columns.read({unit for cells in wanted for unit in cells.units})
        return [pick([arrays[unit] for unit in cells.units], cells) for cells in wanted]


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of the store at a path or URI.

    Raises:
        StoreError: there is none, or one of another version; an object store does not answer.
    """
    location = join_location(str(path), MANIFEST)
    try:
        text = _manifest_text(str(path))
    except OSError:
        raise StoreError(
            f"{path}: no store (there is no {MANIFEST}); make one with `hbt prepare`", code="NO_STORE"
        ) from None
    try:
        record = parse_checked_json(text, location)
        manifest = Manifest.model_validate(record)
    except DamagedFile as error:
        raise StoreError(
            f"{location}: damaged or of another version ({error.reason}); prepare the store again",
            code="DAMAGED_MANIFEST",
        ) from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise StoreError(
            f"{location}: damaged or of another version ({reason}); prepare the store again", code="DAMAGED_MANIFEST"
        ) from None
    if manifest.version != VERSION:
        raise StoreError(
            f"{path}: layout version {manifest.version}, this hbt_ray reads {VERSION}; prepare the store again"
        )
    return manifest


def _manifest_text(location: str) -> bytes:
    if not is_uri(location):
        return (Path(location) / MANIFEST).read_bytes()
    with naming_shard_errors(location):
        system, path = filesystem(location, MANIFEST)

    def read() -> bytes:
        with system.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content

    return with_retries(read, join_location(location, MANIFEST))


def _starts(info: DatasetInfo) -> NDArray[np.int64]:
    """Number of the first item of each shard."""
    return np.cumsum([0, *(shard.num_items for shard in info.shards)], dtype=np.int64)[:-1]
