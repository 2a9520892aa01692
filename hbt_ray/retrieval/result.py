"""The result: what one model is worth on one task, in the three settings of the literature (2408.10536, section 3).

Measures go by their `ir-measures` names (`AP`, `R@1`, `nDCG@10`); `RankDistance` is ours: worst minus best rank of a
question's parallel answers in the multilingual ranking, the language bias (KD-SPD, 2305.09025). More of that bias is in
`MaxR`, `OwnLanguageFirst`, `MRC@10` and `ShareDistance@10` (see `bias` and `preference`). Means are macro averages:
over queries within a language or pair, then over languages or pairs. Every query of the qrels counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from hbt_ray.errors import TaskError
from hbt_ray.storage import checked_file, write_checksums, write_text

Measures = dict[str, float]
MONOLINGUAL, CROSS_LINGUAL, MULTILINGUAL = "monolingual", "cross-lingual", "multilingual"


class EvaluationResult(BaseModel):
    """Read back with `EvaluationResult.load`; written as `result.json` beside the per-query table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    task_fingerprint: str
    """Checksum of queries, documents and judgements: results with another one are on other data, whatever the task's
    name (`Task.fingerprint`)."""
    model: str
    """The name to show: of a run, a folder or a hub model."""
    fingerprint: str
    """Checksum of weights, tokenizer and prompts, and of the post-hoc fix."""
    variant: str = ""
    """Where it was not run as it is saved: the fix of its vectors, the precision; the model's name ends with it too."""
    headline: list[str] = []
    """Measures that the task is known by, shown in place of the columns of 2408.10536; empty: those columns."""
    languages: list[str]
    num_queries: dict[str, int]
    num_documents: dict[str, int]
    num_identical_ids: int = 0
    """Queries that have the id of a document, which was left out of their rankings."""
    num_missing: int = 0
    """Relevant documents, counted once a query, that the corpus lacks; they count as not found."""
    settings: dict[str, Measures]
    """Setting → macro-averaged measures; those of language bias only in the multilingual one."""
    pairs: dict[str, dict[str, Measures]]
    """Question language → passage language → measures; the diagonal is the monolingual setting."""
    pool: dict[str, Measures]
    """Question language → measures in the pool of all languages, those of language bias among them."""
    language_share: dict[str, Measures] = {}
    """Question language → passage language → mean share of the first ten documents in the pool; empty where documents
    have one language."""
    seed_values: dict[str, dict[str, list[float]]] = {}
    """Setting → measure → one value a seed, where this is a mean over some (`evaluate.seeds`)."""
    seconds: dict[str, float] = {}
    """Wall-clock time of `encode` and `search`."""
    peak_memory_bytes: int = 0
    """Largest resident set of any one process that took part."""

    @property
    def data(self) -> tuple[str, str]:
        """Task and its fingerprint: results with the same ones can be compared."""
        return self.task, self.task_fingerprint

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures should know of the task, as sentences."""
        of = f"of the {sum(self.num_queries.values()):,} questions"
        identical = f"{self.num_identical_ids:,} {of} are documents themselves (same id): left out of their rankings."
        missing = f"{self.num_missing:,} documents that answer a question are not in the corpus: counted as not found."
        return [*([identical] if self.num_identical_ids else []), *([missing] if self.num_missing else [])]

    def save(self, folder: Path) -> Path:
        """Write `result.json` and the checksums of all files of the folder; to be called last."""
        path = write_text(folder / "result.json", self.model_dump_json(indent=1))
        write_checksums(folder)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises:
        TaskError: the file is missing or is no result.
        DamagedFile: it was changed.
        """
        try:
            return cls.model_validate_json(checked_file(path.parent, path.name).read_bytes())
        except (OSError, ValidationError) as error:
            raise TaskError(f"{path}: no readable result ({error}); run `hbt evaluate` again") from None


PER_QUERY_FILE = "queries.parquet"
FAILURES_FILE = "failures.parquet"


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
        return self._read(PER_QUERY_FILE)

    @cached_property
    def failures(self) -> pa.Table | None:
        """Questions to read, see `failures.SCHEMA`; None where there is no table. Raises as `queries`."""
        return self._read(FAILURES_FILE)

    def _read(self, name: str) -> pa.Table | None:
        try:
            path = checked_file(self.folder, name)
        except FileNotFoundError:
            return None
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise TaskError(f"{path}: no readable table ({error}); run `hbt evaluate` again") from None


def find_artifacts(result: EvaluationResult, evidence: Sequence[Artifacts]) -> Artifacts | None:
    """That on this very result, which is one object in both."""
    return next((each for each in evidence if each.result is result), None)
