"""The page: gathers what the template shows and writes it in one move."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.report.chart import Chart
from hbt_ray.report.html import page_environment
from hbt_ray.report.search import labels as words
from hbt_ray.report.search import text as prose
from hbt_ray.report.search.figures import FRONTS, curve_chart, front_chart, is_slanted, objective_chart
from hbt_ray.report.search.sections import sections
from hbt_ray.report.search.table import trial_table
from hbt_ray.storage import write_text
from hbt_ray.strict_yaml import read_yaml
from hbt_ray.tune.config import LOWER_IS_BETTER, OBJECTIVES, TuneConfig
from hbt_ray.tune.space import Space
from hbt_ray.tune.state import SearchState, SeedGroup, seed_groups


@dataclass(frozen=True)
class BestConfig:
    """A file to train with."""

    path: str
    why: str
    then: str = ""
    """The command that fixes the vectors of what was trained, where the best trial was such a fix."""


def write_report(folder: Path, board: SearchState, space: Space, settings: TuneConfig, question: str) -> Path:
    """Write `report.html` of a search into its folder; it needs nothing else, and no trial needs to have finished.

    Args:
        question: the docstring of the space; its first paragraph is what the page answers.
    """
    objectives, varied = settings.objectives, space.varied
    found = seed_groups(board, varied)
    asked, *about = prose.paragraphs(question) or [""]
    html = (
        page_environment("hbt_ray.report.search")
        .get_template("search.html.j2")
        .render(
            title=folder.name,
            question=asked,
            about=about,
            answer=prose.answer(board, found, objectives[0]),
            summary=prose.summary(board),
            caveats=prose.caveats(board, found),
            varied=varied,
            slanted=is_slanted(found, varied),
            charts=[chart for name in objectives if (chart := objective_chart(found, name, varied))],
            choices=_choices(found, objectives),
            labels=[(words.label(name), name in LOWER_IS_BETTER) for name in objectives],
            fronts=_fronts(board, objectives, varied),
            sections=list(sections(board, space, settings)),
            table=trial_table(board, objectives),
            curves=[chart for name in objectives if (chart := curve_chart(board, name))],
            best=_best(folder, board),
        )
    )
    return write_text(folder / "report.html", html)


def _choices(
    found: Sequence[SeedGroup], objectives: Sequence[str]
) -> list[tuple[str, int, list[tuple[str, str, str]]]]:
    """Choice, seeds, and of each objective: the mean, its interval, what to sort by."""
    rows = []
    for group in found:
        estimates = [(name, group.estimate(name)) for name in objectives]
        cells = [
            (words.figure(name, each.mean), words.interval(name, each), repr(each.mean)) if each else
            (words.figure(name, None), "", "")
            for name, each in estimates
        ]  # fmt: skip
        rows.append((words.choice(group.values), len(group.trials), cells))
    return rows


def _fronts(board: SearchState, objectives: Sequence[str], varied: str) -> list[tuple[Chart, str]]:
    """Of the pairs that the search has as objectives; with what the horizontal axis shows."""
    return [
        (chart, words.label(x))
        for x, y in FRONTS
        if x in objectives and y in objectives and (chart := front_chart(board, x, y, varied))
    ]


def _best(folder: Path, board: SearchState) -> list[BestConfig]:
    """The files that lie in the search's folder, with what they are best in."""
    paths = sorted((folder / "best").glob("*.yaml"))
    return [BestConfig(str(path), _why(path.stem, board), _then(path, board)) for path in paths]


def _then(path: Path, board: SearchState) -> str:
    trial = board.best(path.stem) if path.stem in OBJECTIVES else None
    if trial is None or not trial.posthoc:
        return ""
    try:
        config = read_yaml(path)
    except (OSError, ValueError):
        return ""
    if not isinstance(config, dict) or not {"name", "store", "storage_path"} <= config.keys():
        return ""  # Somebody changed it since.
    parts = ["hbt", "posthoc", config["name"], "--method", trial.posthoc, "--store", config["store"]]
    return shlex.join([*parts, f"storage_path={config['storage_path']}"])


def _why(name: str, board: SearchState) -> str:
    trial = board.best(name) if name in OBJECTIVES else None
    if trial is None:
        return ""
    extreme = "lowest" if name in LOWER_IS_BETTER else "highest"
    figure = f"{words.label(name)} of a single trial, {words.figure(name, trial.last(name))}"
    return f"{extreme} {figure}: {words.choice(trial.values)}"
