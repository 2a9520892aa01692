"""Reporting: the results of some runs → one page."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import takewhile
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
    """One page on all results of some runs; with the training curve where it is one run. See `write_evaluation_page`.

    Args:
        seeds: see `judged`.
    """
    own, baselines = judged(runs, seeds=seeds)
    single = runs[0] if len(runs) == 1 else None
    config = TrainConfig.load(single.config) if single and single.config.exists() else None
    made = ExportRecord.of(single) if single else None
    return write_evaluation_page(
        path,
        title=", ".join(run.name for run in runs),
        results=[each.result for each in own],
        baseline=[each.result for each in baselines],
        artifacts=[*own, *baselines],
        metrics=single.curve() if single else (),
        dev=list(ValidationRecord(single.validation).results().values()) if single else (),
        best_step=best_step(config) if config else None,
        num_steps=made.steps if made else None,
        policy=str(config.plan) if config else "",
        config_yaml=config.to_yaml() if config else "",
        markdown=markdown,
        latex=latex,
    )


def judged(runs: Sequence[RunDir], *, seeds: bool = False) -> tuple[list[Artifacts], list[Artifacts]]:
    """All results on the runs' encoders, and for each of their tasks the first on an untrained one, with evidence.

    An untrained encoder that was judged on other queries, documents or judgements is no baseline and left out.

    Args:
        seeds: take runs that differ by their seeds alone for one system, their mean.

    Raises:
        TaskError: a folder is no run, or nothing was judged yet.
    """
    for run in runs:
        if not run.root.is_dir():
            raise TaskError(f"{run.root}: no such run")
    own = [each for group in (_of_seeds(runs) if seeds else [[run] for run in runs]) for each in _results_of(group)]
    if not own:
        names = ", ".join(str(run.root) for run in runs)
        raise TaskError(f"nothing was judged yet in {names}; run `hbt evaluate RUN --task …` first")
    baselines: dict[tuple[str, str], Artifacts] = {}
    for each in (Artifacts.load(path) for run in runs for path in run.results(of_base=True)):
        baselines.setdefault(each.result.data, each)
    data = {each.result.data for each in own}
    judged_tasks = {task for task, _ in data}
    for (task, fingerprint), each in baselines.items():
        if task in judged_tasks and (task, fingerprint) not in data:
            logger.warning(
                "%s: judged on other queries, documents or judgements than the runs, so it is not compared with them",
                each.folder,
            )
    return own, [each for key, each in baselines.items() if key in data]


def _of_seeds(runs: Sequence[RunDir]) -> list[list[RunDir]]:
    """Groups of runs that differ by their names and seeds alone."""
    found: dict[str, list[RunDir]] = {}
    for run in runs:
        settings = TrainConfig.load(run.config).model_dump(mode="json") if run.config.exists() else {"run": run.root}
        found.setdefault(repr(_without_seeds(settings)), []).append(run)
    return list(found.values())


def _without_seeds(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_seeds(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in ("name", "storage_path", "seed")
    }


def _common_name(group: Sequence[RunDir]) -> str:
    """`mono-seed0`, `mono-seed1` → `mono`."""
    letters = zip(*(run.name for run in group), strict=False)
    common = "".join(some[0] for some in takewhile(lambda some: len(set(some)) == 1, letters))
    return re.sub(r"[-_.,=]*(seed|s)?[-_.,=]*$", "", common) or group[0].name


def _results_of(group: Sequence[RunDir]) -> list[Artifacts]:
    """Of one run all of its results; of several a mean for each task and variant, over those that were judged so."""
    if len(group) == 1:
        return [Artifacts.load(path) for path in group[0].results()]
    name, found = _common_name(group), dict[tuple[str, str, str], list[Artifacts]]()
    for run in group:
        for each in map(Artifacts.load, run.results()):
            found.setdefault((*each.result.data, each.result.variant), []).append(each)
    means = []
    for (*_, variant), some in found.items():
        seeds = f"{len(some)} of {len(group)} seeds" if len(some) < len(group) else f"{len(group)} seeds"
        means.append(mean_over_seeds(some, f"{name}+{variant}, {seeds}" if variant else f"{name}, {seeds}"))
    return means
