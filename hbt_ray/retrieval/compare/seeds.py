"""Seeds: results on encoders that differ by the seeds of their training alone, as one on a system that is their mean.

Scores of queries are averaged too, so a test over queries compares mean systems: it says whether other questions would
tell the two apart. The interval over seeds says how far a mean would move with other batches and initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.artifacts import Artifacts
from hbt_ray.retrieval.significance import KEYS, of_task


def averaged(group: Sequence[Artifacts], model: str) -> Artifacts:
    """The mean of results on one task.

    Args:
        model: what to call it.

    Raises:
        TaskError: the results are not on the same questions and documents.
    """
    first = group[0].result
    for each in group[1:]:
        for fact in ("task", "task_fingerprint", "languages", "num_queries", "num_documents"):
            if getattr(each.result, fact) != getattr(first, fact):
                raise TaskError(
                    f"{each.folder}: judged on other {fact} than {group[0].folder}, so there is no mean of the two; "
                    "evaluate both again on the same task",
                    code="OTHER_TASK",
                )
    means = {
        name: _mean([getattr(each.result, name) for each in group])
        for name in ("settings", "pairs", "pool", "language_share", "seconds")
    }
    of_seeds = {
        setting: {name: [each.result.settings[setting][name] for each in group] for name in measures}
        for setting, measures in means["settings"].items()
    }
    memory = max(each.result.peak_memory_bytes for each in group)
    changes = {**means, "model": model, "of_seeds": of_seeds, "peak_memory_bytes": memory}
    return _Mean(first.model_copy(update=changes), group[0].folder, tuple(group))


@dataclass(frozen=True)
class _Mean(Artifacts):
    """Questions to read are those of the first seed."""

    group: tuple[Artifacts, ...]

    @cached_property
    def queries(self) -> pa.Table | None:
        tables = [table for each in self.group if (table := each.queries) is not None]
        if len(tables) < len(self.group):
            return None
        names = [name for name in tables[0].column_names if name not in KEYS]
        stacked = pa.concat_tables([table.select([*KEYS, *names]) for table in tables])
        means = stacked.group_by(KEYS).aggregate([(name, "mean") for name in names])
        means = means.rename_columns([name.removesuffix("_mean") for name in means.column_names])
        return of_task(means, self.result.task_fingerprint)


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of what all mappings have."""
    if not isinstance(values[0], Mapping):
        return sum(values) / len(values)
    return {key: _mean([each[key] for each in values]) for key in values[0] if all(key in each for each in values)}
