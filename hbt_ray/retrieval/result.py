"""Evaluation results: the measures of one model on one task, in the three settings of 2408.10536, section 3.

Measures have their `ir-measures` names (`AP`, `R@1`, `nDCG@10`). `RankDistance` is ours: worst minus best rank of a
question's parallel answers in the multilingual ranking, the language bias of KD-SPD (2305.09025). `MaxR`,
`OwnLanguageFirst`, `MRC@10` and `ShareDistance@10` measure that bias too (see `bias`). Means are macro averages: over
queries within a language or pair, then over languages or pairs. Every query of the qrels counts.

A result's folder holds `result.json`, the per-query table, the table of failures and the checksums of these files.

`mean_over_seeds` turns results of models that differ in their training seeds into one result of a mean system. Scores
of queries are averaged too, so a test over queries compares mean systems: it shows whether a difference would hold for
other questions. The interval over seeds shows how far a mean would move with other batches and initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.significance import ROW_KEYS, with_task_fingerprint
from hbt_ray.storage import AnyPath, checked_file, local_folder, write_checksums, write_text

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
    """Checksum of queries, documents and judgements (`Task.fingerprint`). Results with different checksums are on
    different data, even if the tasks have one name."""
    model: str
    """Name to show: that of the run, the folder or the hub model."""
    fingerprint: str
    """Checksum of weights, tokenizer, prompts and post-hoc transform."""
    variant: str = ""
    """Transform and precision, if they differ from the saved model; `model` ends with them too."""
    headline: list[str] = []
    """Measures under which the task is published, shown instead of the columns of 2408.10536; empty means those
    columns."""
    languages: list[str]
    """Languages of questions and passages, sorted."""
    num_queries: dict[str, int]
    """Question language → number of queries."""
    num_documents: dict[str, int]
    """Passage language → number of documents."""
    num_identical_ids: int = 0
    """Number of queries with the id of a document; that document was left out of their rankings."""
    num_missing: int = 0
    """Number of relevant documents, counted once per query, that the corpus lacks; they count as not found."""
    settings: dict[str, Measures]
    """Setting → macro-averaged measures; the multilingual setting also has those of language bias."""
    pairs: dict[str, dict[str, Measures]]
    """Question language → passage language → measures; the diagonal is the monolingual setting."""
    pool: dict[str, Measures]
    """Question language → measures in the pool of all languages, including those of language bias."""
    language_share: dict[str, Measures] = {}
    """Question language → passage language → mean share of the first ten documents in the pool; empty if all documents
    have one language."""
    seed_values: dict[str, dict[str, list[float]]] = {}
    """Setting → measure → one value per seed, if this result is a mean over seeds (`mean_over_seeds`)."""
    seconds: dict[str, float] = {}
    """Wall-clock seconds of the phases `encode` and `search`."""
    peak_memory_bytes: int = 0
    """Largest resident set of any process of the evaluation."""
    _folder: Path | None = PrivateAttr(None)
    _seeds: tuple[EvaluationResult, ...] = PrivateAttr(())
    """The results whose mean this one is; empty for a single model."""

    def __eq__(self, other: object) -> bool:
        """Whether the content is equal; the folders may differ."""
        # Pydantic's own comparison includes private attributes, such as the folder.
        return isinstance(other, EvaluationResult) and self.model_dump() == other.model_dump()

    @property
    def folder(self) -> Path | None:
        """The folder that the result was loaded from; None for a result in memory, which has no tables."""
        return self._folder

    @property
    def data(self) -> tuple[str, str]:
        """Task and its fingerprint: results that agree in both can be compared."""
        return self.task, self.task_fingerprint

    @property
    def notes(self) -> list[str]:
        """Sentences about the task that readers need to understand the figures."""
        of = f"of the {sum(self.num_queries.values()):,} questions"
        identical = f"{self.num_identical_ids:,} {of} are documents themselves (same id): left out of their rankings."
        missing = f"{self.num_missing:,} documents that answer a question are not in the corpus: counted as not found."
        return [*([identical] if self.num_identical_ids else []), *([missing] if self.num_missing else [])]

    def save(self, folder: Path) -> Path:
        """Write `result.json` and the checksums of all files in the folder; the other files must exist already."""
        path = write_text(folder / "result.json", self.model_dump_json(indent=1))
        write_checksums(folder)
        return path

    @classmethod
    def load(cls, path: AnyPath) -> Self:
        """Read a file `result.json`; `queries` and `failures` read the tables beside it when they are first used.

        Raises:
            TaskError: the file is missing or is not a result.
            DamagedFile: the file was changed.
        """
        try:
            folder = local_folder(path.parent)
            result = cls.model_validate_json(checked_file(folder, path.name).read_bytes())
        except (OSError, ValidationError) as error:
            raise _unreadable(path, "result", error) from None
        result._folder = folder
        return result

    @cached_property
    def queries(self) -> pa.Table | None:
        """The per-query table of `score_rankings` or `score_bitext`; None if there is none.

        Raises:
            DamagedFile: the file was changed.
            TaskError: the file is not a Parquet table.
        """
        return _mean_queries(self._seeds) if self._seeds else self._read(PER_QUERY_FILE)

    @cached_property
    def failures(self) -> pa.Table | None:
        """The table of `evaluate.collect_failures`; None if there is none, as for bitexts.

        A mean over seeds has the table of the first seed.

        Raises:
            DamagedFile, TaskError: see `queries`.
        """
        return self._read(FAILURES_FILE)

    def _read(self, name: str) -> pa.Table | None:
        if self._folder is None:
            return None
        try:
            path = checked_file(self._folder, name)
        except FileNotFoundError:
            return None
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, "table", error) from None


def _unreadable(path: AnyPath, kind: str, error: Exception) -> TaskError:
    return TaskError(f"{path}: is not a readable {kind} ({error}); run `hbt evaluate` again", code="INVALID_RESULT")


def mean_over_seeds(group: Sequence[EvaluationResult], model: str) -> EvaluationResult:
    """The mean of the results of models that differ in their training seeds, on one task.

    Args:
        model: name of the mean system.

    Raises:
        TaskError: the results are not on the same questions and documents.
    """
    first = group[0]
    for result in group[1:]:
        for field in ("task", "task_fingerprint", "languages", "num_queries", "num_documents"):
            if getattr(result, field) != getattr(first, field):
                raise TaskError(
                    f"{result._folder or result.model}: has other {field} than {first._folder or first.model}, so they "
                    "have no mean; evaluate both again on the same task",
                    code="OTHER_TASK",
                )
    means = {
        name: _mean([getattr(result, name) for result in group])
        for name in ("settings", "pairs", "pool", "language_share", "seconds")
    }
    # `means` has only the measures that every seed has.
    seed_values = {
        setting: {name: [result.settings[setting][name] for result in group] for name in measures}
        for setting, measures in means["settings"].items()
    }
    memory = max(result.peak_memory_bytes for result in group)
    changes = {**means, "model": model, "seed_values": seed_values, "peak_memory_bytes": memory}
    mean = EvaluationResult.model_validate(first.model_dump() | changes)
    # `failures` reads this folder; `queries` averages the tables of the seeds.
    mean._folder, mean._seeds = first._folder, tuple(group)
    return mean


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of the values of each key that all mappings have."""
    if not isinstance(values[0], Mapping):
        return sum(values) / len(values)
    return {key: _mean([each[key] for each in values]) for key in values[0] if all(key in each for each in values)}


def _mean_queries(seeds: Sequence[EvaluationResult]) -> pa.Table | None:
    """The mean of each row over the seeds; None if a seed has no per-query table."""
    tables = [table for seed in seeds if (table := seed.queries) is not None]
    if len(tables) < len(seeds):
        return None
    names = [name for name in tables[0].column_names if name not in ROW_KEYS]
    stacked = pa.concat_tables([table.select([*ROW_KEYS, *names]) for table in tables])
    # Rows are matched by their keys, so the order of the tables does not matter.
    means = stacked.group_by(ROW_KEYS).aggregate([(name, "mean") for name in names])
    means = means.rename_columns([name.removesuffix("_mean") for name in means.column_names])
    return with_task_fingerprint(means, seeds[0].task_fingerprint)
