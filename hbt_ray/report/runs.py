"""The page of some runs: their results, the baselines to compare with, and the training of a single run."""

from __future__ import annotations

import logging
import os.path
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hbt_ray.errors import TaskError
from hbt_ray.report.evaluation_page import write_evaluation_page
from hbt_ray.retrieval.compare import mean_over_seeds
from hbt_ray.retrieval.result import Artifacts
from hbt_ray.run_dir import RunDir
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.export import ExportRecord
from hbt_ray.train.validation.record import ValidationRecord, best_step

logger = logging.getLogger(__name__)


def make_report(
    runs: Sequence[RunDir], path: Path, *, seeds: bool = False, markdown: Path | None = None, latex: Path | None = None
) -> Path:
    """Write one page on all results of some runs; that of a single run has its training curves too.

    Args:
        path: of the page.
        seeds: see `load_results`.
        markdown, latex: files that get the headline as tables for papers.
    """
    results, baselines = load_results(runs, seeds=seeds)
    single = runs[0] if len(runs) == 1 else None
    config = TrainConfig.load(single.config) if single and single.config.exists() else None
    exported = ExportRecord.load(single) if single else None
    return write_evaluation_page(
        path,
        title=", ".join(run.name for run in runs),
        results=[artifacts.result for artifacts in results],
        baseline=[artifacts.result for artifacts in baselines],
        artifacts=[*results, *baselines],
        metrics=single.curve() if single else (),
        dev=list(ValidationRecord(single.validation).results().values()) if single else (),
        best_step=best_step(config) if config else None,
        num_steps=exported.steps if exported else None,
        policy=str(config.plan) if config else "",
        config_yaml=config.to_yaml() if config else "",
        markdown=markdown,
        latex=latex,
    )


def load_results(runs: Sequence[RunDir], *, seeds: bool = False) -> tuple[list[Artifacts], list[Artifacts]]:
    """All results of the encoders of some runs, and for each task the first result of an untrained encoder.

    The latter are the baselines. One on other queries, documents or judgements is left out with a warning.

    Args:
        seeds: replace runs that differ by their seeds alone by their mean.

    Raises:
        TaskError: a folder is not a run, or no run has a result.
    """
    for run in runs:
        if not run.root.is_dir():
            raise TaskError(f"{run.root}: no such run", code="NOT_A_RUN")
    groups = _seed_groups(runs) if seeds else [[run] for run in runs]
    results = [artifacts for group in groups for artifacts in _group_results(group)]
    if not results:
        names = ", ".join(str(run.root) for run in runs)
        raise TaskError(f"{names}: there are no results; run `hbt evaluate RUN --task …` first", code="NO_RESULTS")
    baselines: dict[tuple[str, str], Artifacts] = {}
    for artifacts in (Artifacts.load(path) for run in runs for path in run.results(of_base=True)):
        baselines.setdefault(artifacts.result.data, artifacts)
    data = {artifacts.result.data for artifacts in results}
    tasks = {task for task, _ in data}
    for (task, fingerprint), artifacts in baselines.items():
        if task in tasks and (task, fingerprint) not in data:
            logger.warning(
                "%s: evaluated on other queries, documents or judgements than the runs, so they are not compared",
                artifacts.folder,
            )
    return results, [artifacts for key, artifacts in baselines.items() if key in data]


def _seed_groups(runs: Sequence[RunDir]) -> list[list[RunDir]]:
    """Groups of runs that differ by their names and seeds alone."""
    groups: dict[str, list[RunDir]] = {}
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
    prefix = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # of names, not of paths
    return re.sub(r"[-_.,=]*(seed|s)?[-_.,=]*$", "", prefix) or group[0].name


def _group_results(group: Sequence[RunDir]) -> list[Artifacts]:
    """All results of a single run; of several runs the mean for each task and variant that some of them have."""
    if len(group) == 1:
        return [Artifacts.load(path) for path in group[0].results()]
    by_task: dict[tuple[str, str, str], list[Artifacts]] = {}
    for artifacts in (Artifacts.load(path) for run in group for path in run.results()):
        by_task.setdefault((*artifacts.result.data, artifacts.result.variant), []).append(artifacts)
    means = []
    for (*_, variant), results in by_task.items():
        number = f"{len(results)} of {len(group)}" if len(results) < len(group) else str(len(group))
        name = f"{_common_name(group)}+{variant}" if variant else _common_name(group)
        means.append(mean_over_seeds(results, f"{name}, {number} seeds"))
    return means
