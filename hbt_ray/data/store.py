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

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from hbt_ray.data.columns import Columns, LocalColumns, Unit
from hbt_ray.data.coverage import Coverage, LanguageCodes
from hbt_ray.data.keyed import Indices
from hbt_ray.data.manifest import VERSION, DatasetInfo, Manifest, Shard
from hbt_ray.data.plan import Batch
from hbt_ray.errors import StoreError

MANIFEST = "manifest.json"
SIDES = ("question", "passage", "answer")
"""What an item may have in a language; answers are optional."""
_KEY = "passage_key"
_ROWS_AT_ONCE = 4096
_ROWS_WORTH_A_TAKE = 16


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a batch, row by row."""

    questions: list[str]
    passages: list[str]
    passage_keys: NDArray[np.int64]
    """Rows with equal keys share a passage, in whatever languages."""


class Places(NamedTuple):
    """Where items lie."""

    files: list[str]
    batches: list[int]
    """The record batches that hold any of the items, by shard and number."""
    which: Indices
    """Position in these two lists, for each item."""
    rows: Indices
    """Row within the record batch, for each item."""


class Cells(NamedTuple):
    """Rows of units, in the order in which somebody wants to see them."""

    units: list[Unit]
    which: Indices
    rows: Indices


class Store:
    """A prepared store, opened for reading.

    Raises:
        StoreError: there is no complete store at `path`, it has another version, or a shard is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.location = str(path)
        self.manifest = read_manifest(Path(path))
        self._infos = {info.name: info for info in self.manifest.datasets}
        self._starts = {info.name: _starts(info) for info in self.manifest.datasets}
        for shard in (shard for info in self.manifest.datasets for shard in info.shards):
            if not (Path(path) / shard.file).is_file():
                raise StoreError(
                    f"{Path(path) / shard.file}: named by the manifest, but missing; prepare the store again"
                )
        self._columns: Columns = LocalColumns(Path(path), 3 + len(SIDES) * len(self.manifest.languages))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.location,)

    def texts(self, batch: Batch, languages: tuple[str, ...]) -> Texts:
        """The texts of a batch's rows; `languages` are the names of its language codes.

        Raises:
            StoreError: a shard cannot be read, or lacks a text that the manifest promises.
        """
        places = self._places(batch.dataset, batch.items)
        questions = _cells(places, "question", batch.question_languages, languages)
        passages = _cells(places, "passage", batch.passage_languages, languages)
        asked, found, keys = self._values(questions, passages, _column(places, _KEY))
        for cells, values in ((questions, asked), (passages, found)):
            if not all(values):
                unit = cells.units[cells.which[next(n for n, value in enumerate(values) if not value)]]
                raise StoreError(
                    f"{self.location}: {unit.file} lacks values of {unit.column} that the manifest promises; "
                    "`hbt store verify` tells what is damaged"
                )
        return Texts(asked, found, np.array(keys, np.int64))

    def texts_of(
        self, dataset: str, side: str, items: Indices, codes: LanguageCodes, languages: tuple[str, ...]
    ) -> list[str]:
        """Row by row the text of `items[row]` in language `languages[codes[row]]`; empty where the item has none.

        Args:
            side: `question`, `passage` or `answer`.
        """
        (values,) = self._values(_cells(self._places(dataset, items), side, codes, languages))
        return [value or "" for value in values]

    def passage_keys(self, dataset: str, items: Indices) -> NDArray[np.int64]:
        """Of each item; equal where passages are shared."""
        (keys,) = self._values(_column(self._places(dataset, items), _KEY))
        return np.array(keys, np.int64)

    def sample_texts(self, languages: tuple[str, ...], limit: int = 20_000) -> Iterator[str]:
        """Questions and passages, at most about `limit` items of each dataset and language, evenly spaced."""
        for info in self.manifest.datasets:
            coverage = Coverage(info, languages, 0.0)
            for code in range(len(languages)):
                pool = coverage.pool(code)
                items = pool.items(np.arange(0, pool.size, max(1, pool.size // limit)))
                for side in ("question", "passage"):
                    for start in range(0, len(items), _ROWS_AT_ONCE):
                        part = items[start : start + _ROWS_AT_ONCE]
                        yield from self.texts_of(info.name, side, part, np.full(len(part), code, np.int16), languages)

    def _places(self, dataset: str, items: Indices) -> Places:
        shards, starts = self._infos[dataset].shards, self._starts[dataset]
        numbers = np.searchsorted(starts, items, side="right") - 1
        rows = items - starts[numbers]
        found: dict[tuple[int, int], int] = {}
        which = np.empty(len(items), np.int64)
        for position, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            begins = self._begins(shards[number])
            batch = bisect_right(begins, row) - 1
            which[position] = found.setdefault((number, batch), len(found))
            rows[position] -= begins[batch]
        return Places([shards[number].file for number, _ in found], [batch for _, batch in found], which, rows)

    def _begins(self, shard: Shard) -> Sequence[int]:
        """First row of each record batch."""
        begins = self._columns.starts(shard.file)
        if begins[-1] != shard.num_items:
            raise StoreError(
                f"{self.location}: {shard.file} holds {begins[-1]:,} items, but {shard.num_items:,} by the manifest; "
                "prepare the store again"
            )
        return begins

    def _values(self, *wanted: Cells) -> list[list[Any]]:
        """What stands in the cells; None where the shard lacks the column."""
        arrays = self._columns.read({unit for cells in wanted for unit in cells.units})
        return [_pick([arrays[unit] for unit in cells.units], cells) for cells in wanted]


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


def _starts(info: DatasetInfo) -> NDArray[np.int64]:
    """Number of the first item of each shard."""
    return np.cumsum([0, *(shard.num_items for shard in info.shards)], dtype=np.int64)[:-1]


def _cells(places: Places, side: str, codes: LanguageCodes, languages: tuple[str, ...]) -> Cells:
    """Each item's text in its language."""
    combined, which = np.unique(places.which * len(languages) + codes, return_inverse=True)
    pairs = [divmod(number, len(languages)) for number in combined.tolist()]
    units = [Unit(places.files[at], places.batches[at], f"{side}.{languages[code]}") for at, code in pairs]
    return Cells(units, which, places.rows)


def _column(places: Places, column: str) -> Cells:
    """Each item's value in one column."""
    units = [Unit(file, batch, column) for file, batch in zip(places.files, places.batches, strict=True)]
    return Cells(units, places.which, places.rows)


def _pick(arrays: list[pa.Array | None], cells: Cells) -> list[Any]:
    """Unit by unit, as joining them would copy them whole."""
    order = np.argsort(cells.which, kind="stable")
    ends = np.searchsorted(cells.which[order], np.arange(len(arrays)), side="right").tolist()
    rows, values, start = cells.rows[order].tolist(), [], 0
    for array, end in zip(arrays, ends, strict=True):
        if array is None:
            values += [None] * (end - start)
        elif end - start < _ROWS_WORTH_A_TAKE:
            values += [array[row].as_py() for row in rows[start:end]]
        else:
            values += array.take(pa.array(rows[start:end])).to_pylist()
        start = end
    picked: list[Any] = [None] * len(values)
    for position, value in zip(order.tolist(), values, strict=True):
        picked[position] = value
    return picked
