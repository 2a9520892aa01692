"""The store: items on disk, and the way back from (item, languages) to texts.

    STORE/manifest.json              what is there; written last, so a folder without it is no store
    STORE/<dataset>/00000.arrow …    Arrow IPC, one row an item: `item_id`, `passage_id`, `passage_key` (int64, equal
                                     where passages are shared), and `question.<lang>`, `passage.<lang>`, null where
                                     the item lacks the language
    STORE/rejected.jsonl             rows that `prepare` did not take, with file, line and reason
    STORE/removed.jsonl              items that overlap with the evaluation data

Shards are memory-mapped: opening costs nothing, and a row that is never drawn is never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from hbt_ray.data.keyed import Indices
from hbt_ray.data.manifest import VERSION, DatasetInfo, Manifest
from hbt_ray.data.plan import Batch
from hbt_ray.errors import StoreError

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a batch, row by row."""

    questions: list[str]
    passages: list[str]
    passage_keys: NDArray[np.int64]
    """Rows with equal keys share a passage, in whatever languages."""


class Store:
    """A prepared store, opened for reading.

    Raises:
        StoreError: there is no complete store at `path`, it has another version, or a shard is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._infos = {info.name: info for info in self.manifest.datasets}
        for shard in (shard for info in self.manifest.datasets for shard in info.shards):
            if not (self.path / shard.file).is_file():
                raise StoreError(
                    f"{self.path / shard.file}: named by the manifest, but missing; prepare the store again"
                )

    def texts(self, batch: Batch, languages: tuple[str, ...]) -> Texts:
        """The texts of a batch's rows; `languages` are the names of its language codes."""
        table = _table(self.path, self._infos[batch.dataset])
        keys = table.column("passage_key").take(pa.array(batch.items)).to_numpy()
        questions = _pick(table, "question", batch.items, batch.question_languages, languages)
        passages = _pick(table, "passage", batch.items, batch.passage_languages, languages)
        return Texts(questions, passages, keys)

    def texts_of(
        self, dataset: str, side: str, items: Indices, codes: NDArray[np.int16], languages: tuple[str, ...]
    ) -> list[str]:
        """Row by row the text of `items[row]` in language `languages[codes[row]]`; empty where the item has none.

        Args:
            side: `question`, `passage`, or `answer`, which a store may have.
        """
        table = _table(self.path, self._infos[dataset])
        if not any(f"{side}.{language}" in table.column_names for language in languages):
            return [""] * len(items)
        return [text or "" for text in _pick(table, side, items, codes, languages)]

    def passage_keys(self, dataset: str, items: Indices) -> NDArray[np.int64]:
        """Of each item; equal where passages are shared."""
        keys: NDArray[np.int64] = (
            _table(self.path, self._infos[dataset]).column("passage_key").take(pa.array(items)).to_numpy()
        )
        return keys

    def sample_texts(self, languages: tuple[str, ...], limit: int = 20_000) -> Iterator[str]:
        """Questions and passages, at most `limit` items of each dataset and language, evenly spaced."""
        for info in self.manifest.datasets:
            table = _table(self.path, info)
            for language in languages:
                if language not in info.languages:
                    continue
                every = max(1, info.items_by_language[language] // limit)
                for side in ("question", "passage"):
                    column = table.column(f"{side}.{language}").drop_null()
                    yield from column.take(pa.array(np.arange(0, len(column), every))).to_pylist()


def read_manifest(path: Path) -> Manifest:
    """Raises: StoreError where there is none, or one of another version."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except OSError:
        raise StoreError(f"{path}: no store (there is no {MANIFEST}); make one with `hbt prepare`") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"{path / MANIFEST}: damaged or of another version ({error.errors()[0]['msg']}); prepare the store again"
        ) from None
    if manifest.version != VERSION:
        raise StoreError(
            f"{path}: layout version {manifest.version}, this hbt_ray reads {VERSION}; prepare the store again"
        )
    return manifest


@lru_cache(maxsize=64)
def _table(path: Path, info: DatasetInfo) -> pa.Table:
    """All shards of a dataset as one memory-mapped table."""
    parts = []
    for shard in info.shards:
        try:
            parts.append(pa.ipc.open_file(pa.memory_map(str(path / shard.file))).read_all())
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{path / shard.file}: cannot be read ({error}); prepare the store again") from None
    return pa.concat_tables(parts, promote_options="default")


def _pick(
    table: pa.Table, side: str, items: Indices, codes: NDArray[np.int16], languages: tuple[str, ...]
) -> list[str]:
    """Row by row the text of `items[row]` in language `codes[row]`: one read per language."""
    texts: list[str] = [""] * len(items)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        column = table.column(f"{side}.{languages[code]}").take(pa.array(items[rows]))
        for row, text in zip(rows.tolist(), column.to_pylist(), strict=True):
            texts[row] = text
    return texts
