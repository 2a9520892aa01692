"""The batch of one rank for one step, and the Arrow table that carries the batches of several steps.

The table has a row for each step. Each array of the batches is one long column for all steps, cut by Arrow's own
offsets: a task writes a few long columns, and the reader's arrays are views of shared memory, which are neither copied
nor parsed on the way to the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.stream.tokenise import Tokens, TokenSections

QUESTIONS, PASSAGES, NEGATIVES = "questions", "passages", "negatives"
"""Sections that every batch has; further ones are named by `AuxiliaryTexts`."""

_SCALARS = ("step", "kind", "dataset", "language")
_ARRAYS = ("items", "positive_keys", "question_languages", "passage_languages", "negative_keys", "teacher_scores")
_SIZE = "texts."
"""Prefix of the columns that hold the number of texts of each section."""
_IDS, _LENGTHS = "ids", "lengths"


def _no_keys() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


def _no_scores() -> NDArray[np.float32]:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RankBatch:
    """One rank's slice of a global batch, ready for the encoder."""

    step: int
    kind: str
    dataset: str
    language: str
    items: Indices
    texts: TokenSections
    """Token ids of the questions and passages, [rows] each; of the negatives, [rows · n], n consecutive ones for each
    row; of the auxiliary texts, [rows] each. A negative or an auxiliary text may be missing."""
    positive_keys: NDArray[np.int64]
    """Keys of the passages that answer each row's question, [rows, n]. The first is that of the row's own passage; it
    is repeated if there are fewer than n. A passage with one of these keys is not a negative of the row's question."""
    question_languages: NDArray[np.int64]
    """Positions in `Plan.languages`, [rows]."""
    passage_languages: NDArray[np.int64]
    negative_keys: NDArray[np.int64] = field(default_factory=_no_keys)
    """Passage keys of the negatives, [rows · n]; 0 for a missing one."""
    teacher_scores: NDArray[np.float32] = field(default_factory=_no_scores)
    """Scores of each question with its passage, then with its negatives, [rows, 1 + n]; NaN if the teacher gave none.
    [0, 0] if the loader does not load scores."""


def to_table(batches: Sequence[RankBatch]) -> pa.Table:
    """A table with one row per step. All batches must have the same sections."""
    columns: dict[str, Any] = {name: [getattr(batch, name) for batch in batches] for name in _SCALARS}
    for name in _ARRAYS:
        # Without scores, whose shape is then [0, 0], there is no column.
        if name != "teacher_scores" or batches[0].teacher_scores.shape[1]:
            columns[name] = _column([getattr(batch, name) for batch in batches])
    # Starts are left out: `flat_ids` makes the texts follow one another.
    columns[_IDS] = _column([batch.texts.tokens.flat_ids() for batch in batches])
    columns[_LENGTHS] = _column([batch.texts.tokens.lengths for batch in batches])
    for section in batches[0].texts.bounds:
        columns[_SIZE + section] = [batch.texts.sizes[section] for batch in batches]
    return pa.table(columns)


def from_table(table: pa.Table) -> Iterator[RankBatch]:
    """Yield the batches of a table. Their arrays are read-only views of its memory."""
    for part in table.to_batches():
        columns: dict[str, list[Any]] = {
            # Arrays are list columns; the other columns have one value per step.
            name: _arrays(part.column(name)) if pa.types.is_large_list(kind) else part.column(name).to_pylist()
            for name, kind in zip(part.schema.names, part.schema.types, strict=True)
        }
        sections = [name.removeprefix(_SIZE) for name in columns if name.startswith(_SIZE)]
        for row in range(part.num_rows):
            tokens = Tokens.from_lengths(columns[_IDS][row], columns[_LENGTHS][row])
            texts = TokenSections.of_sizes(tokens, {name: columns[_SIZE + name][row] for name in sections})
            fields = {name: columns[name][row] for name in (*_SCALARS, *_ARRAYS) if name in columns}
            yield RankBatch(**fields, texts=texts)


def _column(arrays: list[NDArray[Any]]) -> pa.LargeListArray:
    """A list column from one array per step, [rows] or [rows, width] with the same width for all steps."""
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    values = np.concatenate(arrays)
    if values.ndim == 2:
        # [steps] lists of [rows] lists of `width` numbers.
        values = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    return pa.LargeListArray.from_arrays(offsets, values)


def _arrays(column: pa.LargeListArray) -> list[NDArray[Any]]:
    """The arrays that `_column` was made from, as views."""
    # Offsets count from the start of `values`, also if the column is a slice.
    offsets = column.offsets.to_numpy()
    values = column.values
    if pa.types.is_fixed_size_list(values.type):
        values = values.values.to_numpy().reshape(-1, values.type.list_size)
    else:
        values = values.to_numpy()
    return [values[first:last] for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
