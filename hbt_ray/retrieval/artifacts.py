"""Evidence: what lies beside a result in its folder. A result from before it was kept has less of it, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.storage import checked_file

PER_QUERY = "queries.parquet"
FAILURES = "failures.parquet"


@dataclass(frozen=True)
class Artifacts:
    result: EvaluationResult
    folder: Path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Of the file `result.json`. Raises: TaskError where it is missing or is no result."""
        return cls(EvaluationResult.load(path), path.parent)

    @cached_property
    def queries(self) -> pa.Table | None:
        """The per-query table of the judge; None where there is none.

        Raises:
            DamagedFile: the file was changed.
        """
        return self._read(PER_QUERY)

    @cached_property
    def failures(self) -> pa.Table | None:
        """Questions to read, see `failures.SCHEMA`; None where there is no table. Raises as `queries`."""
        return self._read(FAILURES)

    def _read(self, name: str) -> pa.Table | None:
        try:
            path = checked_file(self.folder, name)
        except FileNotFoundError:
            return None
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise TaskError(f"{path}: no readable table ({error}); run `hbt evaluate` again") from None


def artifacts_of(result: EvaluationResult, evidence: Sequence[Artifacts]) -> Artifacts | None:
    """That on this very result, which is one object in both."""
    return next((each for each in evidence if each.result is result), None)
