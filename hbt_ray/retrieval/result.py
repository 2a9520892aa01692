"""Evaluation results: how good one model is on one task, in the three settings of the literature (2408.10536, §3).

Measures have their `ir-measures` names (`AP`, `R@1`, `nDCG@10`). `RankDistance` is ours: worst minus best rank of a
question's parallel answers in the multilingual ranking, the language bias of KD-SPD (2305.09025). `MaxR`,
`OwnLanguageFirst`, `MRC@10` and `ShareDistance@10` measure that bias too (see `bias`). Means are macro averages: over
queries within a language or pair, then over languages or pairs. Every query of the qrels counts.

A result's folder holds `result.json`, the per-query table, the table of failures and the checksums of these files.
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
PER_QUERY_FILE = "queries.parquet"
FAILURES_FILE = "failures.parquet"


class EvaluationResult(BaseModel):
    """The content of `result.json`; read it with `EvaluationResult.load`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Name of the task."""
    task_fingerprint: str
    """Checksum of queries, documents and judgements (`Task.fingerprint`). Results with another one are on other data,
    whatever the task's name."""
    model: str
    """Name to show: of a run, a folder or a hub model."""
    fingerprint: str
    """Checksum of weights, tokenizer, prompts and post-hoc transform."""
    variant: str = ""
    """Transform and precision, if they differ from how the model is saved; `model` ends with it too."""
    headline: list[str] = []
    """Measures that the task is known by, shown in place of the columns of 2408.10536; empty means these columns."""
    languages: list[str]
    """Languages of questions and passages, sorted."""
    num_queries: dict[str, int]
    """Question language → number of queries."""
    num_documents: dict[str, int]
    """Passage language → number of documents."""
    num_identical_ids: int = 0
    """Number of queries that have the id of a document, which was left out of their rankings."""
    num_missing: int = 0
    """Number of relevant documents, counted once per query, that the corpus lacks; they count as not found."""
    settings: dict[str, Measures]
    """Setting → macro-averaged measures; those of language bias only in the multilingual one."""
    pairs: dict[str, dict[str, Measures]]
    """Question language → passage language → measures; the diagonal is the monolingual setting."""
    pool: dict[str, Measures]
    """Question language → measures in the pool of all languages, those of language bias among them."""
    language_share: dict[str, Measures] = {}
    """Question language → passage language → mean share of the first ten documents in the pool; empty if all documents
    have one language."""
    seed_values: dict[str, dict[str, list[float]]] = {}
    """Setting → measure → one value per seed, if this result is a mean over seeds (`compare.mean_over_seeds`)."""
    seconds: dict[str, float] = {}
    """Wall-clock time of `encode` and `search`."""
    peak_memory_bytes: int = 0
    """Largest resident set of any process that took part."""

    @property
    def data(self) -> tuple[str, str]:
        """Task and its fingerprint: results that agree in both can be compared."""
        return self.task, self.task_fingerprint

    @property
    def notes(self) -> list[str]:
        """Sentences about the task that a reader of the figures should know."""
        of = f"of the {sum(self.num_queries.values()):,} questions"
        identical = f"{self.num_identical_ids:,} {of} are documents themselves (same id): left out of their rankings."
        missing = f"{self.num_missing:,} documents that answer a question are not in the corpus: counted as not found."
        return [*([identical] if self.num_identical_ids else []), *([missing] if self.num_missing else [])]

    def save(self, folder: Path) -> Path:
        """Write `result.json` and the checksums of all files in the folder. Call it after the other files exist."""
        path = write_text(folder / "result.json", self.model_dump_json(indent=1))
        write_checksums(folder)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises:
        TaskError: the file is missing or is not a result.
        DamagedFile: the file was changed.
        """
        try:
            return cls.model_validate_json(checked_file(path.parent, path.name).read_bytes())
        except (OSError, ValidationError) as error:
            raise TaskError(
                f"{path}: is not a readable result ({error}); run `hbt evaluate` again", code="INVALID_RESULT"
            ) from None


@dataclass(frozen=True)
class Artifacts:
    """A result and the tables beside it."""

    result: EvaluationResult
    folder: Path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load the file `result.json`. Raises as `EvaluationResult.load`."""
        return cls(EvaluationResult.load(path), path.parent)

    @cached_property
    def queries(self) -> pa.Table | None:
        """The per-query table of `score_rankings` or `score_bitext`; None if there is none.

        Raises:
            DamagedFile: the file was changed.
            TaskError: the file is not a Parquet table.
        """
        return self._read(PER_QUERY_FILE)

    @cached_property
    def failures(self) -> pa.Table | None:
        """The table of `evaluate.collect_failures`; None if there is none, as for bitexts. Raises as `queries`."""
        return self._read(FAILURES_FILE)

    def _read(self, name: str) -> pa.Table | None:
        try:
            path = checked_file(self.folder, name)
        except FileNotFoundError:
            return None
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise TaskError(
                f"{path}: is not a readable table ({error}); run `hbt evaluate` again", code="INVALID_RESULT"
            ) from None


def find_artifacts(result: EvaluationResult, artifacts: Sequence[Artifacts]) -> Artifacts | None:
    """The artifacts that hold this very result object; None if none of them does."""
    return next((each for each in artifacts if each.result is result), None)
