"""Mined negatives: for every item of a store, other items of its dataset whose passages only seem to answer it.

    FOLDER/negatives.json       manifest: store, model, settings and files; written last
    FOLDER/<dataset>.arrow      Arrow IPC, one row an item of the dataset, in the store's order; fixed-size lists
                                `negatives` (int64): item numbers, hardest first, padded with -1; optionally `positive`
                                (float32) and, in lists, `scores` (float32): a teacher's scores of the item's question
                                with its own passage and with each negative, NaN if it gave none

Item numbers have no language: negatives mined in one language are used in every language that they exist in. So are the
scores of a teacher that is best in one language (Multilingual Translate-Distill, 2405.00977).
Files are memory-mapped, so a task that draws a few rows reads a few pages.
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
from pydantic import ValidationError

from hbt_ray.data.index.manifest import Manifest, ManifestRecord
from hbt_ray.data.index.permutation import Indices
from hbt_ray.errors import DamagedFile, NegativesError
from hbt_ray.storage import Name, RelativePath, file_sha256, read_checked_json, write_checked_json

MANIFEST = "negatives.json"
VERSION = 3
"""Version of the layout; readers refuse any other version."""

_COLUMN, _POSITIVE, _SCORES = "negatives", "positive", "scores"


class TeacherScores(NamedTuple):
    """A teacher's scores of the questions of a dataset's items; NaN if it gave none."""

    positive: NDArray[np.float32]
    """Scores with their own passages, [items]."""
    negatives: NDArray[np.float32]
    """Scores with their negatives, [items, keep]."""


class MinedDataset(ManifestRecord):
    """The mined negatives of one dataset."""

    name: Name
    language: str
    """Language that the questions and passages were mined in."""
    file: RelativePath
    sha256: str
    num_items: int
    """Items of the dataset, which are the rows of the file."""
    num_questions: int
    """Items that have the language."""
    num_served: int
    """Items with at least one negative."""
    num_negatives: int
    """Negatives of all items together."""
    dropped: dict[str, int]
    """Reason → candidates within the window of ranks that were not taken as negatives."""


class NegativesManifest(ManifestRecord):
    """The contents of a folder of mined negatives."""

    version: int = VERSION
    store: str
    """`Manifest.checksum` of the store that the item numbers refer to."""
    model: str
    fingerprint: str
    """Fingerprint of the model's weights, tokenizer, prompts and length."""
    teacher: str = ""
    """Name of the model that gave the scores: the miner itself, or a cross-encoder that rescored."""
    keep: int
    """Maximum number of negatives of an item: the length of every list."""
    settings: dict[str, Any]
    datasets: tuple[MinedDataset, ...]


class Negatives:
    """Mined negatives, opened for reading."""

    def __init__(
        self, path: Path, manifest: NegativesManifest, tables: dict[str, Indices], scores: dict[str, TeacherScores]
    ) -> None:
        self.path, self.manifest = path, manifest
        self._tables, self._scores = tables, scores

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
                "item numbers would name other passages; mine this store with `hbt mine`",
                code="NEGATIVES_OF_OTHER_STORE",
            )
        infos = {info.name: info for info in store.datasets}
        tables, scores = {}, {}
        # Verified once at opening; later reads of the mapped files are not.
        for mined in manifest.datasets:
            if mined.name not in infos:
                raise _damaged(path / MANIFEST, f"the store has no dataset {mined.name!r}")
            file, num_items = path / mined.file, infos[mined.name].num_items
            if not file.is_file() or file_sha256(file) != mined.sha256:
                raise _damaged(file, "it is missing, truncated or was changed")
            tables[mined.name], dataset_scores = _map_rows(file, num_items, manifest.keep)
            if dataset_scores:
                scores[mined.name] = dataset_scores
        return cls(path, manifest, tables, scores)

    def table(self, dataset: str) -> Indices | None:
        """Item numbers [items, keep], -1 for none; None if the dataset was not mined."""
        return self._tables.get(dataset)

    def scores(self, dataset: str, items: Indices, negatives: Indices) -> NDArray[np.float32]:
        """The teacher's scores of some items with their own passages and with some of their negatives.

        Args:
            negatives: [rows, n] negatives of each of the items [rows], -1 for none.

        Returns:
            [rows, 1 + n], NaN if the teacher gave none.
        """
        # Column 0 is for the item's own passage, column 1 + n for negative n.
        scores = np.full((len(items), 1 + negatives.shape[1]), np.nan, np.float32)
        stored = self._scores.get(dataset)
        if stored is None:
            return scores
        scores[:, 0] = stored.positive[items]
        mined, values = self._tables[dataset][items], stored.negatives[items]
        # [rows, n, keep]: where in the mined list of its row each negative stands.
        is_same = (negatives[:, :, None] == mined[:, None, :]) & (negatives >= 0)[:, :, None]
        # Drawn negatives are a subset of the mined ones, in another order.
        row, column, position = np.nonzero(is_same)
        scores[row, 1 + column] = values[row, position]
        return scores

    @property
    def unscored(self) -> list[str]:
        """Mined datasets without scores."""
        return sorted(self._tables.keys() - self._scores.keys())

    @cached_property
    def checksum(self) -> str:
        """Checksum of everything that determines the negatives of an item."""
        files = [[mined.name, mined.sha256] for mined in self.manifest.datasets]
        # Names and settings of the miner are left out: equal files give equal negatives.
        text = json.dumps([self.manifest.version, self.manifest.store, self.manifest.keep, files])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_scores(negatives: Negatives | None) -> Negatives:
    """Return the negatives if they have a teacher's scores.

    Raises:
        NegativesError: there are no negatives, or those of a dataset were written without scores.
    """
    if negatives is None:
        raise NegativesError(
            "a teacher's scores are needed, which are stored with mined negatives, but there is no folder of these; "
            "mine the store with `hbt mine` and set negatives=FOLDER and plan.negatives, or leave out what learns from "
            "scores",
            code="NO_TEACHER_SCORES",
        )
    if negatives.unscored:
        raise NegativesError(
            f"{negatives.path}: holds no scores for {', '.join(negatives.unscored)}, so nothing can be learned from "
            "them; mine the store again with `hbt mine`, or leave out what learns from scores",
            code="NO_TEACHER_SCORES",
        )
    return negatives


def write_rows(folder: Path, dataset: str, negatives: Indices, scores: TeacherScores | None = None) -> tuple[str, str]:
    """Write the negatives [items, keep] of one dataset. Returns the file's name in `folder`, and its SHA-256."""
    columns = {_COLUMN: _lists(negatives)}
    if scores:
        columns |= {_POSITIVE: pa.array(scores.positive), _SCORES: _lists(scores.negatives)}
    table = pa.table(columns)
    file = f"{dataset}.arrow"
    # One record batch, so that the mapped numbers are one array.
    with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return file, file_sha256(folder / file)


def _lists(numbers: NDArray[Any]) -> pa.FixedSizeListArray:
    # A fixed size needs no offsets, so the file is a plain [items, keep] array.
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])


def write_manifest(folder: Path, manifest: NegativesManifest) -> None:
    """Write the manifest. Call it last: a folder without it does not count as mined negatives."""
    write_checked_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _read_manifest(path: Path) -> NegativesManifest:
    try:
        manifest = NegativesManifest.model_validate(read_checked_json(path / MANIFEST))
    except FileNotFoundError:
        raise NegativesError(
            f"{path}: no mined negatives (there is no {MANIFEST}); make them with `hbt mine STORE MODEL`",
            code="NO_NEGATIVES",
        ) from None
    except (DamagedFile, ValidationError) as error:
        reason = error.reason if isinstance(error, DamagedFile) else error.errors()[0]["msg"]
        raise _damaged(path / MANIFEST, reason) from None
    if manifest.version != VERSION:
        raise NegativesError(
            f"{path}: layout version {manifest.version}, this hbt_ray reads {VERSION}; mine the store again",
            code="LAYOUT_VERSION",
        )
    return manifest


def _map_rows(file: Path, num_items: int, keep: int) -> tuple[Indices, TeacherScores | None]:
    """Views of a memory-mapped file: negatives [items, keep], and scores if there are any."""
    try:
        # The arrays refer to the mapping, so it stays open as long as they are used.
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        numbers = _flat(table.column(_COLUMN))
        scores = [_flat(table.column(name)) for name in (_POSITIVE, _SCORES) if name in table.column_names]
    except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        raise _damaged(file, str(error)) from None
    # The checksum proves that the file is as written, not that it fits the manifest.
    if numbers.dtype != np.int64 or len(numbers) != num_items * keep:
        raise _damaged(file, f"{len(numbers)} numbers for {num_items} items with {keep} negatives each")
    rows: Indices = numbers.reshape(num_items, keep)
    if not scores:
        return rows, None
    # Lengths of `positive` and of the flattened `scores`.
    expected = [num_items, num_items * keep]
    if [len(column) for column in scores] != expected or any(column.dtype != np.float32 for column in scores):
        raise _damaged(file, f"{[len(column) for column in scores]} scores instead of {expected}")
    return rows, TeacherScores(scores[0], scores[1].reshape(rows.shape))


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    """The numbers of a column, or of its lists end to end. `write_rows` writes one chunk, which is not copied."""
    array = column.chunk(0) if column.num_chunks else column.combine_chunks()
    numbers: NDArray[Any] = (array.flatten() if pa.types.is_fixed_size_list(array.type) else array).to_numpy()
    return numbers


def _damaged(file: Path, reason: str) -> NegativesError:
    return NegativesError(f"{file}: damaged: {' '.join(reason.split())}; mine the store again", code="DAMAGED_FILE")
