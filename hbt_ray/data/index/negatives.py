"""Mined negatives: for every item of a store, other items of its dataset whose passages only seem to answer it.

    FOLDER/negatives.json       what was mined, from which store, by which model; written last
    FOLDER/<dataset>.arrow      Arrow IPC, one row an item of the dataset, in the store's order; fixed-size lists
                                `negatives` (int64): item numbers, hardest first, then -1 for want of more; and perhaps
                                `positive` (float32) and, in lists, `scores` (float32): what a teacher gave the item's
                                question with its own passage and with each negative, NaN where it gave none

Item numbers have no language: what was mined in one language serves in every language that the negative exists in; and
so do the scores of a teacher that reads one language best (Multilingual Translate-Distill, 2405.00977).
Files are memory-mapped, so that a task which draws a few rows reads a few pages.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hbt_ray.data.index.manifest import DatasetInfo, Manifest
from hbt_ray.data.index.permutation import Indices
from hbt_ray.errors import DamagedFile, NegativesError
from hbt_ray.storage import Name, RelativePath, file_sha256, read_checked_json, with_checksum, write_json

MANIFEST = "negatives.json"
VERSION = 3
"""Of the layout; a reader refuses any other."""

_COLUMN, _POSITIVE, _SCORES = "negatives", "positive", "scores"

Scores = NDArray[np.float32]


class TeacherScores(NamedTuple):
    """What a teacher gave the questions of a dataset's items; NaN where nothing."""

    positive: Scores
    """With their own passages, [items]."""
    negatives: Scores
    """With their negatives, [items, keep]."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MinedDataset(_Record):
    """What was found for one dataset."""

    name: Name
    language: str
    """That it was mined in."""
    file: RelativePath
    sha256: str
    num_items: int
    """Of the dataset; rows of the file."""
    num_questions: int
    """Items that have the language."""
    num_served: int
    """Items with at least one negative."""
    num_negatives: int
    """Of all items together."""
    dropped: dict[str, int]
    """Reason → candidates within the window of ranks that were no negatives."""


class NegativesManifest(_Record):
    """The contents of a folder of mined negatives."""

    version: int = VERSION
    store: str
    """`Manifest.checksum` of the store whose items the numbers are."""
    model: str
    fingerprint: str
    """Of the model's weights, tokenizer, prompts and length."""
    teacher: str = ""
    """What gave the scores: the model, or a cross-encoder that was asked after it."""
    keep: int
    """Negatives of an item at most: the length of every list."""
    settings: dict[str, Any]
    datasets: tuple[MinedDataset, ...]


class Negatives:
    """Mined negatives, opened for reading."""

    def __init__(
        self, path: Path, manifest: NegativesManifest, rows: dict[str, Indices], scored: dict[str, TeacherScores]
    ) -> None:
        self.path, self.manifest = path, manifest
        self._rows, self._scored = rows, scored

    @classmethod
    def open(cls, path: str | Path, store: Manifest) -> Self:
        """The negatives at `path`, for the store with this manifest. Every file is read whole, for its checksum.

        Raises:
            NegativesError: there are none, they are damaged, or they were mined from another store.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if manifest.store != store.checksum:
            raise NegativesError(
                f"{path}: mined from another store (checksum {manifest.store}, this one has {store.checksum}), so its "
                "item numbers would name other passages; mine this store with `hbt mine`"
            )
        infos = {info.name: info for info in store.datasets}
        rows, scored = {}, {}
        for mined in manifest.datasets:
            if mined.name not in infos:
                raise _damaged(path / MANIFEST, f"the store has no dataset {mined.name!r}")
            if _sha256(path / mined.file) != mined.sha256:
                raise _damaged(path / mined.file, "it is not what was written (missing, cut short or changed)")
            rows[mined.name], scores = _mapped(path / mined.file, infos[mined.name], manifest.keep)
            if scores:
                scored[mined.name] = scores
        return cls(path, manifest, rows, scored)

    def of(self, dataset: str) -> Indices | None:
        """Item numbers [items, keep], -1 for none; nothing where the dataset was not mined."""
        return self._rows.get(dataset)

    def scores(self, dataset: str, items: Indices, picks: Indices) -> Scores:
        """What the teacher gave some items, with their own passages and then with some of their negatives.

        Args:
            picks: [rows, n] negatives of each of the items [rows], -1 for none.

        Returns:
            [rows, 1 + n], NaN where the teacher gave none.
        """
        found = np.full((len(items), 1 + picks.shape[1]), np.nan, np.float32)
        scored = self._scored.get(dataset)
        if scored is None:
            return found
        found[:, 0] = scored.positive[items]
        mined, values = self._rows[dataset][items], scored.negatives[items]
        row, turn, place = np.nonzero((picks[:, :, None] == mined[:, None, :]) & (picks >= 0)[:, :, None])
        found[row, 1 + turn] = values[row, place]
        return found

    @property
    def unscored(self) -> list[str]:
        """Mined datasets without scores."""
        return sorted(self._rows.keys() - self._scored.keys())

    @cached_property
    def checksum(self) -> str:
        """Of everything that decides which negatives an item has."""
        files = [[mined.name, mined.sha256] for mined in self.manifest.datasets]
        text = json.dumps([self.manifest.version, self.manifest.store, self.manifest.keep, files])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_scores(negatives: Negatives | None) -> Negatives:
    """The negatives, whose scores somebody wants.

    Raises:
        NegativesError: there are no negatives, or those of a dataset were written without scores.
    """
    if negatives is None:
        raise NegativesError(
            "a teacher's scores are asked for, but no folder of mined negatives is given, which holds them; mine the "
            "store with `hbt mine` and set negatives=FOLDER and plan.negatives, or leave out what learns from scores"
        )
    if negatives.unscored:
        raise NegativesError(
            f"{negatives.path}: holds no scores for {', '.join(negatives.unscored)}, so nothing can be learned from "
            "them; mine the store again with `hbt mine`, or leave out what learns from scores"
        )
    return negatives


def write_rows(folder: Path, dataset: str, negatives: Indices, scored: TeacherScores | None = None) -> tuple[str, str]:
    """Write the negatives [items, keep] of one dataset. Returns the file's name in `folder`, and its SHA-256."""
    columns = {_COLUMN: _lists(negatives)}
    if scored:
        columns |= {_POSITIVE: pa.array(scored.positive), _SCORES: _lists(scored.negatives)}
    table = pa.table(columns)
    file = f"{dataset}.arrow"
    # One record batch, so that the mapped numbers are one array.
    with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return file, file_sha256(folder / file)


def _lists(numbers: NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])


def write_manifest(folder: Path, manifest: NegativesManifest) -> None:
    """To be called last."""
    write_json(folder / MANIFEST, with_checksum(manifest.model_dump(mode="json")))


def _read_manifest(path: Path) -> NegativesManifest:
    try:
        manifest = NegativesManifest.model_validate(read_checked_json(path / MANIFEST))
    except FileNotFoundError:
        raise NegativesError(
            f"{path}: no mined negatives (there is no {MANIFEST}); make them with `hbt mine STORE MODEL`"
        ) from None
    except DamagedFile as error:
        raise _damaged(path / MANIFEST, error.reason) from None
    except ValidationError as error:
        raise _damaged(path / MANIFEST, error.errors()[0]["msg"]) from None
    if manifest.version != VERSION:
        raise NegativesError(
            f"{path}: layout version {manifest.version}, this hbt_ray reads {VERSION}; mine the store again"
        )
    return manifest


def _mapped(file: Path, info: DatasetInfo, keep: int) -> tuple[Indices, TeacherScores | None]:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        numbers = _flat(table.column(_COLUMN))
        scores = [_flat(table.column(name)) for name in (_POSITIVE, _SCORES) if name in table.column_names]
    except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        raise _damaged(file, str(error)) from None
    if numbers.dtype != np.int64 or len(numbers) != info.num_items * keep:
        raise _damaged(file, f"{len(numbers)} numbers for {info.num_items} items with {keep} negatives each")
    rows: Indices = numbers.reshape(info.num_items, keep)
    if not scores:
        return rows, None
    expected = [info.num_items, info.num_items * keep]
    if [len(some) for some in scores] != expected or any(some.dtype != np.float32 for some in scores):
        raise _damaged(file, f"{[len(some) for some in scores]} scores where {expected} are due")
    return rows, TeacherScores(scores[0], scores[1].reshape(rows.shape))


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    if not column.num_chunks:
        kind = column.type.value_type if pa.types.is_fixed_size_list(column.type) else column.type
        return np.empty(0, kind.to_pandas_dtype())
    chunk = column.chunk(0)
    numbers: NDArray[Any] = (chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk).to_numpy()
    return numbers


def _damaged(file: Path, reason: str) -> NegativesError:
    return NegativesError(f"{file}: damaged: {' '.join(reason.split())}; mine the store again", code="DAMAGED_FILE")


def _sha256(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        return file_sha256(path)
    except OSError:
        return ""
