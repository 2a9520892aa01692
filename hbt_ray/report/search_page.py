"""The page of a search: its question and answer, charts, all trials, and configurations to train with."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hbt_ray.report.formatting import (
    duration,
    interval,
    objective_name,
    objective_value,
    setting_value,
    settings_text,
)
from hbt_ray.report.page import write_page
from hbt_ray.report.search_charts import (
    FRONTS,
    critical_chart,
    curve_chart,
    front_chart,
    objective_chart,
    value_axis,
)
from hbt_ray.report.search_text import STATUSES, answer, caveats, critical_text, paragraphs, summary
from hbt_ray.report.tables import Cell, Table, count, measure_heading, number
from hbt_ray.strict_yaml import read_yaml
from hbt_ray.tune.config import LOWER_IS_BETTER, OBJECTIVES, TuneConfig, sign
from hbt_ray.tune.critical_batch import NoFit, critical_batch
from hbt_ray.tune.search_state import SearchState, SeedGroup, Trial, is_number, seed_groups
from hbt_ray.tune.space import SEED, Space


@dataclass(frozen=True)
class BestConfig:
    """A configuration file in the folder of the search."""

    path: str
    reason: str
    """Sentence on the objective in which its trial is best; empty if there is no such trial."""
    posthoc_command: str = ""
    """Command that transforms the vectors after training; empty if the best trial did not transform them."""


def write_search_page(folder: Path, state: SearchState, space: Space, config: TuneConfig, docstring: str) -> Path:
    """Write `report.html` into the folder of a search. The page loads no other file, and no trial need have finished.

    Args:
        docstring: docstring of the search space; its first paragraph is the question that the page answers.
    """
    objectives, varied = config.objectives, space.varied
    groups = seed_groups(state, varied)
    question, *about = paragraphs(docstring) or [""]
    critical = critical_batch(state.trials, objectives[0]) if space.batch_sizes else None
    return write_page(
        folder / "report.html",
        "search.html.j2",
        title=folder.name,
        question=question,
        about=about,
        answer=answer(state, groups, objectives[0]),
        summary=summary(state),
        caveats=caveats(state, groups),
        varied=varied,
        objective_charts=[chart for name in objectives if (chart := objective_chart(groups, name, varied))],
        setting_table=setting_table(groups, objectives),
        fronts=[
            chart
            for x, y in FRONTS
            if x in objectives and y in objectives and (chart := front_chart(state, x, y, varied))
        ],
        critical_text=critical_text(critical, objectives[0]) if critical else "",
        critical_charts=[] if critical is None or isinstance(critical, NoFit) else [critical_chart(critical)],
        trial_table=trial_table(state, objectives),
        curves=[chart for name in objectives if (chart := curve_chart(state, name))],
        best=_best_configs(folder, state),
    )


def setting_table(groups: Sequence[SeedGroup], objectives: Sequence[str]) -> Table:
    """A row per combination of settings: mean and interval of each objective over its seeds."""
    rows = []
    for i, group in enumerate(groups):
        cells = []
        for name in objectives:
            if estimate := group.estimate(name):
                text, notes = objective_value(name, estimate.mean), (("same", interval(name, estimate)),)
                cells.append(Cell(text, "number", estimate.mean, notes=notes))
            else:
                cells.append(number(objective_value(name, None), ""))
        # `seed_groups` sorts numbers by value, which the text would not.
        rows.append([Cell(settings_text(group.values), sort=i), count(len(group.trials)), *cells])
    return Table([Cell("Choice"), number("Seeds"), *_objective_headings(objectives)], rows)


def trial_table(state: SearchState, objectives: Sequence[str]) -> Table:
    """All trials by status, finished first and failed last, then by the first objective, best first.

    Settings are shaded from the smallest to the largest, objectives from the worst to the best finished trial.
    """

    def order(trial: Trial) -> tuple[int, float]:
        value = trial.last(objectives[0])  # Without a value, a trial is the last of its status.
        is_known = value is not None and math.isfinite(value)
        return STATUSES.index(trial.status), -sign(
            objectives[0]
        ) * value if value is not None and is_known else math.inf

    keys = list(dict.fromkeys(key for trial in state.trials for key in trial.values))
    trials = sorted(state.trials, key=order)
    # Seeds have no order that a shade could show.
    columns = [_setting_cells([trial.values.get(key) for trial in trials], key != SEED) for key in keys]
    columns += [_objective_cells(trials, name) for name in objectives]
    rows = []
    for trial, *cells in zip(trials, *columns, strict=True):
        seconds = trial.seconds_until(state.last)
        notes = [("same", f"after {trial.attempts} attempts")] if trial.attempts > 1 else []
        notes += [("same", trial.error)] if trial.status == "failed" and trial.error else []
        status = Cell(trial.status, "state bad" if trial.status == "failed" else "state", notes=tuple(notes))
        rows.append([*cells, count(trial.step), number(duration(seconds), seconds), status])
    # Not strict: the columns of the objectives follow those of the settings.
    headings = [Cell(key, column[0].style if column else "") for key, column in zip(keys, columns, strict=False)]
    headings += [*_objective_headings(objectives), number("Step"), number("Time"), Cell("Status")]
    return Table(headings, rows, style="trials")


def _objective_headings(objectives: Sequence[str]) -> list[Cell]:
    return [measure_heading(objective_name(name), name in LOWER_IS_BETTER) for name in objectives]


def _setting_cells(values: Sequence[Any], is_shaded: bool) -> list[Cell]:
    if not all(map(is_number, values)):
        return [Cell(setting_value(value), "words", setting_value(value)) for value in values]
    log = value_axis(values, "").scale == "log"  # the scale of the chart, so that shades agree with it
    places = [(math.log10(value) if log else float(value)) if is_shaded else None for value in values]
    return [
        replace(number(setting_value(value), value), level=level)
        for value, level in zip(values, _levels(places), strict=True)
    ]


def _objective_cells(trials: Sequence[Trial], objective: str) -> list[Cell]:
    """Cells of an objective. Only finished trials are shaded: at other steps, values cannot be compared."""
    last = [trial.last(objective) for trial in trials]
    known = [value if value is not None and math.isfinite(value) else None for value in last]
    finished = [
        sign(objective) * value if value is not None and trial.status == "finished" else None
        for trial, value in zip(trials, known, strict=True)
    ]
    return [
        replace(number(objective_value(objective, value), "" if value is None else value), level=level)
        for value, level in zip(known, _levels(finished), strict=True)
    ]


def _levels(values: Sequence[float | None]) -> list[float | None]:
    """Position of each value between the smallest and the largest, from 0 to 1; None if all are equal."""
    known = [value for value in values if value is not None]
    if not known or min(known) == max(known):
        return [None] * len(values)
    low, span = min(known), max(known) - min(known)
    return [None if value is None else (value - low) / span for value in values]


def _best_configs(folder: Path, state: SearchState) -> list[BestConfig]:
    configs = []
    for path in sorted((folder / "best").glob("*.yaml")):
        objective = path.stem
        if (trial := state.best(objective) if objective in OBJECTIVES else None) is None:
            configs.append(BestConfig(str(path), ""))
            continue
        extreme = "Lowest" if objective in LOWER_IS_BETTER else "Highest"
        value = objective_value(objective, trial.last(objective))
        reason = f"{extreme} {objective_name(objective)} of a single trial, {value}: {settings_text(trial.values)}"
        configs.append(BestConfig(str(path), reason, _posthoc_command(path, trial.posthoc) if trial.posthoc else ""))
    return configs


def _posthoc_command(path: Path, method: str) -> str:
    """The command that transforms the vectors of a configuration's run; empty if the file lacks the settings for it."""
    try:
        config = read_yaml(path)
    except (OSError, ValueError):
        return ""
    if not isinstance(config, dict) or not {"name", "store", "storage_path"} <= config.keys():
        return ""
    parts = ["hbt", "posthoc", config["name"], "--method", method, "--store", config["store"]]
    return shlex.join([*parts, f"storage_path={config['storage_path']}"])
