"""The store: items on a disk or in an object store, and the lookup from (item, language) to text.

    STORE/manifest.json              contents of the store; written last, so a folder without it is not a store
    STORE/<dataset>/00000.arrow …    Arrow IPC, one row per item: `item_id`, `passage_id`, `passage_key` (int64, equal
                                     for passages with equal id or text), `right_keys` (keys of other passages that
                                     answer the question), and `question.<lang>`, `passage.<lang>` and, if there are
                                     answers, `answer.<lang>`; null if the item does not have the language
    STORE/rejected.jsonl             rows that `prepare` rejected, with file, line and reason
    STORE/removed.jsonl              items that overlap with evaluation data, and rows that another item has

Local shards are memory-mapped: opening costs nothing, and only the column chunks that hold a drawn row are read and
compared with their checksums (`hbt_ray.data.store.shard_checksums`). A store under a URI is read in the same units,
through a cache on this machine's disk (`hbt_ray.data.store.node_cache`).
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
from hbt_ray.data.index.manifest import VERSION, Manifest
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.plan.plan import Batch
from hbt_ray.data.store.columns import (
    PASSAGE_KEY,
    RIGHT_KEYS,
    SIDES,
    ItemRows,
    LocalColumnReader,
    RemoteColumnReader,
    RowLookup,
    column_lookup,
    gather,
    text_lookup,
)
from hbt_ray.data.store.node_cache import DEFAULT_CACHE, NodeCache, NodeCacheConfig
from hbt_ray.errors import DamagedFile, StoreError
from hbt_ray.storage import parse_checked_json
from hbt_ray.storage.location import Folder, join_location
from hbt_ray.storage.object_store import is_uri

MANIFEST = "manifest.json"
_MAX_ROWS = 4096
"""Number of rows that `sample_texts` reads at once."""


@dataclass(frozen=True, slots=True)
class BatchTexts:
    """Texts of the rows of a batch."""

    questions: list[str]
    passages: list[str]
    positive_keys: NDArray[np.int64]
    """[rows, n]: keys of the passages that answer each row's question (see `Store.positive_keys`)."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with all its texts."""

    dataset: str
    item_id: str
    passage_id: str
    texts: dict[str, dict[str, str]]
    """Language → side → text."""


class Store:
    """A prepared store, opened for reading.

    Args:
        path: folder or URI of the store.
        cache: cache on this machine's disk for a store under a URI.

    Raises:
        StoreError: there is no complete store at `path`, its version is not supported, or a shard is missing.
    """

    def __init__(self, path: str | Path, cache: NodeCacheConfig = DEFAULT_CACHE) -> None:
        self.location = str(path)
        self.manifest = read_manifest(path)
        self._cache = cache
        self._infos = {info.name: info for info in self.manifest.datasets}
        self._first_items = {  # Number of the first item of each shard, [shards].
            info.name: np.cumsum([0, *(shard.num_items for shard in info.shards)], dtype=np.int64)[:-1]
            for info in self.manifest.datasets
        }
        self._columns = self._open_columns()

    def _open_columns(self) -> LocalColumnReader | RemoteColumnReader:
        shards = [shard for info in self.manifest.datasets for shard in info.shards]
        if is_uri(self.location):  # One request per shard would take too long; the first read finds a missing shard.
            return RemoteColumnReader(self.location, shards, NodeCache(self._cache))
        for path in (Path(self.location) / shard.file for shard in shards):
            if not path.is_file():
                raise StoreError(
                    f"{path}: missing, although the manifest lists it. Prepare the store again", code="MISSING_SHARD"
                )
        # 4: item id, passage id, passage key, right keys.
        return LocalColumnReader(Path(self.location), shards, 4 + len(SIDES) * len(self.manifest.languages))

    def __reduce__(self) -> tuple[Any, ...]:
        # Open readers, locks and threads cannot be pickled; the receiving process opens the store itself.
        return Store, (self.location, self._cache)

    def texts(self, batch: Batch, languages: tuple[str, ...]) -> BatchTexts:
        """The texts of a batch's rows, whose language codes are positions in `languages`.

        Raises:
            StoreError: a shard cannot be read, or does not have a text that the manifest lists.
        """
        items = self._item_rows(batch.dataset, batch.items)
        lookups = (
            text_lookup(items, "question", batch.question_languages, languages),
            text_lookup(items, "passage", batch.passage_languages, languages),
        )
        # One read for all columns, so that remote chunks are requested at the same time.
        questions, passages, *keys = self._values(*lookups, *self._key_lookups(batch.dataset, items))
        for lookup, texts in zip(lookups, (questions, passages), strict=True):
            self._require_texts(lookup, texts)
        return BatchTexts(questions, passages, self._joined_keys(batch.dataset, *keys))

    def texts_of(
        self,
        dataset: str,
        side: str,
        items: Indices,
        codes: LanguageCodes,
        languages: tuple[str, ...],
        *,
        required: bool = False,
    ) -> list[str]:
        """The text of item `items[row]` in `languages[codes[row]]` for each row; empty if the item has none.

        Args:
            side: `question`, `passage` or `answer`.
            required: raise an error for a missing text.

        Raises:
            StoreError: a shard cannot be read, or does not have a required text.
        """
        lookup = text_lookup(self._item_rows(dataset, items), side, codes, languages)
        (values,) = self._values(lookup)
        if required:
            self._require_texts(lookup, values)
        return [value or "" for value in values]

    def passage_keys(self, dataset: str, items: Indices) -> NDArray[np.int64]:
        """The key of each item's passage, [items]; equal for equal passages, in any language and dataset."""
        (keys,) = self._values(column_lookup(self._item_rows(dataset, items), PASSAGE_KEY))
        return np.array(keys, np.int64)

    def positive_keys(self, dataset: str, items: Indices) -> NDArray[np.int64]:
        """The keys of the passages that answer each item's question, [items, n].

        n is the largest number of such passages of a question in the dataset. The first key is that of the item's own
        passage; it is repeated for questions with fewer than n.
        """
        return self._joined_keys(dataset, *self._values(*self._key_lookups(dataset, self._item_rows(dataset, items))))

    def _key_lookups(self, dataset: str, items: ItemRows) -> list[RowLookup]:
        """Lookups of the passage keys, and of the lists of other passages if the dataset has any that is not empty."""
        columns = (PASSAGE_KEY, RIGHT_KEYS) if self._infos[dataset].max_right > 1 else (PASSAGE_KEY,)
        return [column_lookup(items, column) for column in columns]

    def _joined_keys(
        self, dataset: str, passage_keys: list[int], other_keys: Sequence[list[int]] = ()
    ) -> NDArray[np.int64]:
        # The own key fills the row; other keys overwrite all places but the first.
        keys = np.repeat(np.array(passage_keys, np.int64)[:, None], self._infos[dataset].max_right, axis=1)
        for row, others in enumerate(other_keys):
            keys[row, 1 : 1 + len(others)] = others
        return keys

    def _require_texts(self, lookup: RowLookup, texts: list[str | None]) -> None:
        # None (null, or no such column) and an empty text both mean that it is missing.
        if not all(texts):
            chunk = lookup.chunks[lookup.chunk_index[next(n for n, text in enumerate(texts) if not text)]]
            raise StoreError(
                f"{self.location}: {chunk.file} lacks values of {chunk.column} that the manifest lists. "
                "`hbt store verify` shows what is damaged",
                code="MISSING_TEXT",
            )

    def item(self, dataset: str, number: int) -> StoredItem:
        """Read one item with all its texts."""
        items = self._item_rows(dataset, np.array([number]))
        # All languages of the dataset; columns that the item lacks give None.
        text_lookups = {
            (language, side): column_lookup(items, f"{side}.{language}")
            for language in self._infos[dataset].languages
            for side in SIDES
        }
        id_lookups = (column_lookup(items, "item_id"), column_lookup(items, "passage_id"))
        (item_id,), (passage_id,), *values = self._values(*id_lookups, *text_lookups.values())
        texts: dict[str, dict[str, str]] = {}
        for (language, side), (text,) in zip(text_lookups, values, strict=True):
            if text is not None:
                texts.setdefault(language, {})[side] = text
        return StoredItem(dataset, item_id, passage_id, texts)

    def sample_texts(self, languages: tuple[str, ...], limit: int = 20_000) -> Iterator[str]:
        """Questions and passages of about `limit` evenly spaced items per dataset and language."""
        for info in self.manifest.datasets:
            index = LanguageIndex(info, languages, 0.0)
            for code in range(len(languages)):
                pool = index.pool(code)
                # Every n-th item of the pool.
                items = pool.items(np.arange(0, pool.size, max(1, pool.size // limit)))
                for side in ("question", "passage"):
                    for start in range(0, len(items), _MAX_ROWS):
                        part = items[start : start + _MAX_ROWS]
                        yield from self.texts_of(info.name, side, part, np.full(len(part), code, np.int16), languages)

    def _item_rows(self, dataset: str, items: Indices) -> ItemRows:
        """Shard, record batch and row of each item."""
        shards, first_items = self._infos[dataset].shards, self._first_items[dataset]
        shard_numbers = np.searchsorted(first_items, items, side="right") - 1
        rows = items - first_items[shard_numbers]  # Row in the shard; the loop below makes it the row in the batch.
        files = {number: shards[number].file for number in np.unique(shard_numbers).tolist()}
        batch_offsets = self._columns.batch_offsets(files.values())
        for number, file in files.items():
            if batch_offsets[file][-1] != shards[number].num_items:
                raise StoreError(
                    f"{self.location}: {file} has {batch_offsets[file][-1]:,} items, but the manifest lists "
                    f"{shards[number].num_items:,}. Prepare the store again",
                    code="DAMAGED_SHARD",
                )
        positions: dict[tuple[str, int], int] = {}  # (shard, record batch) → position in the result's lists
        batch_index = np.empty(len(items), np.int64)
        # A loop, because every shard has batch bounds of its own; its cost is small beside reading texts.
        for i, (number, row) in enumerate(zip(shard_numbers.tolist(), rows.tolist(), strict=True)):
            file = files[number]
            batch = bisect_right(batch_offsets[file], row) - 1
            batch_index[i] = positions.setdefault((file, batch), len(positions))
            rows[i] -= batch_offsets[file][batch]
        return ItemRows([file for file, _ in positions], [batch for _, batch in positions], batch_index, rows)

    def _values(self, *lookups: RowLookup) -> list[list[Any]]:
        """The values of each lookup, [values]; None for a null, or if the shard has no such column."""
        arrays = self._columns.read({chunk for lookup in lookups for chunk in lookup.chunks})
        return [gather([arrays[chunk] for chunk in lookup.chunks], lookup) for lookup in lookups]


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of the store at a path or URI.

    Raises:
        StoreError: there is no manifest, its version is not supported, or an object store does not answer.
    """
    location = join_location(str(path), MANIFEST)
    try:
        content = Folder(str(path)).read(MANIFEST)
    except OSError:
        raise StoreError(
            f"{path}: not a store (there is no {MANIFEST}). Make a store with `hbt prepare`", code="NO_STORE"
        ) from None
    try:
        manifest = Manifest.model_validate(parse_checked_json(content, location))
    except (DamagedFile, ValidationError) as error:
        reason = error.reason if isinstance(error, DamagedFile) else error.errors()[0]["msg"]
        raise StoreError(
            f"{location}: damaged or of an unsupported version ({reason}). Prepare the store again",
            code="DAMAGED_MANIFEST",
        ) from None
    if manifest.version != VERSION:
        raise StoreError(
            f"{path}: the store has version {manifest.version}, and this hbt_ray reads version {VERSION}. Prepare the "
            "store again",
            code="STORE_VERSION",
        )
    return manifest
