"""The page of one or more runs: their results, the baselines, and the training of a single run."""

from __future__ import annotations

import logging
import os.path
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hbt_ray.errors import TaskError
from hbt_ray.report.evaluation_page import write_evaluation_page
from hbt_ray.retrieval.result import EvaluationResult, mean_over_seeds
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import AnyPath, names_in
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.export import ExportRecord
from hbt_ray.train.validation.record import ValidationRecord, best_step

logger = logging.getLogger(__name__)


def make_report(
    runs: Sequence[RunDir],
    path: AnyPath,
    *,
    seeds: bool = False,
    markdown: Path | None = None,
    latex: Path | None = None,
) -> AnyPath:
    """Write one page on all results of the runs; the page of a single run also has its training curves.

    Args:
        path: path of the page.
        seeds: see `load_results`.
        markdown, latex: files to write the headline to, as tables for papers.
    """
    results, baselines = load_results(runs, seeds=seeds)
    single = runs[0] if len(runs) == 1 else None
    config = TrainConfig.of_run(single) if single and single.config.exists() else None
    exported = ExportRecord.load(single) if single else None
    return write_evaluation_page(
        path,
        title=", ".join(run.name for run in runs),
        results=results,
        baseline=baselines,
        metrics=single.curve() if single else (),
        dev=list(ValidationRecord(single.validation).results().values()) if single else (),
        best_step=best_step(config) if config else None,
        num_steps=exported.steps if exported else None,
        policy=str(config.plan) if config else "",
        config_yaml=config.to_yaml() if config else "",
        markdown=markdown,
        latex=latex,
    )


def load_results(
    runs: Sequence[RunDir], *, seeds: bool = False
) -> tuple[list[EvaluationResult], list[EvaluationResult]]:
    """All results of the runs' encoders, and the baselines: for each task the first result of an untrained encoder.

    A baseline on other queries, documents or judgements than the results is left out with a warning.

    Args:
        seeds: replace runs that differ only in their seeds by their mean.

    Raises:
        TaskError: a folder is not a run, or no run has a result.
    """
    for run in runs:
        if not names_in(run.root):
            raise TaskError(f"{run.root}: no such run", code="NOT_A_RUN")
    groups = _seed_groups(runs) if seeds else [[run] for run in runs]
    results = [result for group in groups for result in _group_results(group)]
    if not results:
        names = ", ".join(str(run.root) for run in runs)
        raise TaskError(f"{names}: there are no results; run `hbt evaluate RUN --task …` first", code="NO_RESULTS")
    data = {result.data for result in results}
    baselines: dict[tuple[str, str], EvaluationResult] = {}
    for path in (path for run in runs for path in run.results(of_base=True)):
        baseline = EvaluationResult.load(path)
        if baseline.data in data:
            baselines.setdefault(baseline.data, baseline)
        elif baseline.task in {task for task, _ in data}:
            logger.warning(
                "%s: evaluated on other queries, documents or judgements than the runs, so they are not compared",
                path.parent,
            )
    return results, list(baselines.values())


def _seed_groups(runs: Sequence[RunDir]) -> list[list[RunDir]]:
    """Groups of runs that differ only in their names and seeds; a run without a configuration is its own group."""
    groups: dict[str, list[RunDir]] = {}  # the text of a configuration without seeds → its runs
    for run in runs:
        config = TrainConfig.load(run.config).model_dump(mode="json") if run.config.exists() else {"run": run.root}
        groups.setdefault(repr(_without_seeds(config)), []).append(run)
    return list(groups.values())


def _without_seeds(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_seeds(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ("name", "storage_path", "seed")
    }


def _common_name(group: Sequence[RunDir]) -> str:
    """`mono-seed0`, `mono-seed1` → `mono`."""
    # Cut what is left of a suffix such as `-seed=0` or `_s1`.
    prefix = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # of names, not of paths
    return re.sub(r"[-_.,=]*(seed|s)?[-_.,=]*$", "", prefix) or group[0].name


def _group_results(group: Sequence[RunDir]) -> list[EvaluationResult]:
    """All results of a single run; for several runs, their mean for each task and variant that any of them has."""
    loaded = [EvaluationResult.load(path) for run in group for path in run.results()]
    if len(group) == 1:
        return loaded
    by_task: dict[tuple[str, str, str], list[EvaluationResult]] = {}
    for result in loaded:
        by_task.setdefault((*result.data, result.variant), []).append(result)
    means = []
    for (*_, variant), results in by_task.items():
        # Some seeds may lack a result; the name then says how many the mean has.
        number = f"{len(results)} of {len(group)}" if len(results) < len(group) else str(len(group))
        name = f"{_common_name(group)}+{variant}" if variant else _common_name(group)
        means.append(mean_over_seeds(results, f"{name}, {number} seeds"))
    return means
