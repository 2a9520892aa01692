"""Reporting: the verdicts of some runs → one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbt_ray.errors import TaskError
from hbt_ray.evaluate.evidence import Evidence
from hbt_ray.evaluate.report import write_report
from hbt_ray.run import Run
from hbt_ray.train.export import Exported
from hbt_ray.train.settings import TrainConfig
from hbt_ray.train.validation.ending import best_step
from hbt_ray.train.validation.record import Record


def make_report(runs: Sequence[Run], path: Path, *, markdown: Path | None = None, latex: Path | None = None) -> Path:
    """One page on all verdicts of some runs; with the training curve where it is one run. See `write_report`."""
    own, baselines = judged(runs)
    single = runs[0] if len(runs) == 1 else None
    config = TrainConfig.load(single.config) if single and single.config.exists() else None
    made = Exported.of(single) if single else None
    return write_report(
        path,
        title=", ".join(run.name for run in runs),
        verdicts=[each.verdict for each in own],
        baseline=[each.verdict for each in baselines],
        evidence=[*own, *baselines],
        curve=single.curve() if single else (),
        dev=list(Record(single.validation).results().values()) if single else (),
        best=best_step(config) if config else None,
        steps=made.steps if made else None,
        policy=str(config.plan) if config else "",
        config_yaml=config.to_yaml() if config else "",
        markdown=markdown,
        latex=latex,
    )


def judged(runs: Sequence[Run]) -> tuple[list[Evidence], list[Evidence]]:
    """All verdicts on the runs' encoders, and for each of their tasks the first on an untrained one, with evidence.

    Raises:
        TaskError: a folder is no run, or nothing was judged yet.
    """
    for run in runs:
        if not run.root.is_dir():
            raise TaskError(f"{run.root}: no such run")
    own = [Evidence.load(path) for run in runs for path in run.verdicts()]
    if not own:
        names = ", ".join(str(run.root) for run in runs)
        raise TaskError(f"nothing was judged yet in {names}; run `hbt evaluate RUN --task …` first")
    baselines: dict[str, Evidence] = {}
    for each in (Evidence.load(path) for run in runs for path in run.verdicts(of_base=True)):
        baselines.setdefault(each.verdict.task, each)
    tasks = {each.verdict.task for each in own}
    return own, [each for task, each in baselines.items() if task in tasks]
