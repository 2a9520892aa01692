"""`hbt tune`: a space and a configuration → trials, a report of them, and the best as configurations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides
from hbt_ray.storage import exclusive_lock

if TYPE_CHECKING:
    from rich.table import Table

    from hbt_ray.console import Screen
    from hbt_ray.run_dir import RunDir
    from hbt_ray.tune.search import Search
    from hbt_ray.tune.search_state import SearchState, Trial

_STATUSES = ("finished", "stopped", "failed", "running")


@dataclass(frozen=True)
class SearchOutcome:
    """Result of a search."""

    state: SearchState
    front: list[Trial]
    report: Path
    configs: list[Path]
    """The best configurations, for `hbt train`."""


def tune(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="A module such as tune_spaces.mixing_ratio, or a file of your own.")
    ],
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.yaml", help="What all trials have in common.")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Search a space of training configurations; the same command continues where it stopped.

    Keys of the trials are those of `hbt train`; `search.` keys say how the space is searched. `name` is the name of the
    search, by default the space's; the same name continues it.
    """
    from hbt_ray.cli.settings import TuneSettings
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.tune.search import Search as TrialSearch
    from hbt_ray.tune.search_state import trial_run
    from hbt_ray.tune.space import load_space

    screen = Screen(as_json)
    loaded, question = load_space(space)
    module_name = space.removesuffix(".py").rpartition("/")[2].rpartition(".")[2]
    defaults = {"search": deepcopy(dict(loaded.settings))}
    settings = TuneSettings.load(config, [f"name={module_name}", *(overrides or ())], defaults)
    search = TrialSearch(loaded, space, settings.training, settings.search)
    with exclusive_search(search), session(spare_cpus=False):
        outcome = run_search(search, question, screen)
    trials = outcome.state.trials
    screen.result(
        {
            "search": search.folder,
            "trials": {status: sum(trial.status == status for trial in trials) for status in _STATUSES},
            "front": [
                {"values": trial.values, "run": trial_run(search.folder, trial).root, **trial.rows[trial.step]}
                for trial in outcome.front
            ],
            "report": outcome.report,
            "configs": outcome.configs,
        }
    )


def run_search(search: Search, question: str, screen: Screen) -> SearchOutcome:
    """Search to the end, or continue. Needs a Ray session.

    Raises:
        ConfigError: a node does not see the folder of the trials.
        ResourceError: the cluster has no room for a trial.
        LockedError: another command runs the search.
        HbtError: every trial failed.
    """
    with exclusive_search(search):
        return _search(search, question, screen)


def exclusive_search(search: Search) -> AbstractContextManager[None]:
    """The search's lock, for commands that write its folder.

    Raises:
        LockedError: another command holds it.
    """
    return exclusive_lock(search.folder, "searching")


def _search(search: Search, question: str, screen: Screen) -> SearchOutcome:
    import ray

    from hbt_ray.doctor.run import check_shared
    from hbt_ray.tune.tuner import exhausted_budget

    check_shared(search.folder)
    settings = search.settings
    max_concurrent = search.max_concurrent(ray.cluster_resources())
    concurrent = min(settings.concurrent or max_concurrent, max_concurrent)
    if settings.concurrent and settings.concurrent > max_concurrent:
        screen.log(f"search.concurrent={settings.concurrent}, but only {max_concurrent} trials fit; the others wait")
    begun = len(search.state.trials)
    earlier = f", continuing with {begun} trials that began before" if begun else ""
    screen.log(f"searching {search.folder}: {search.num_trials} trials, {concurrent} at a time{earlier}")
    with _progress(search, screen):
        state = search.run(concurrent)
    if reason := exhausted_budget(state, settings.budget, state.last):
        screen.log(f"the budget ended the search: {reason}")
    return conclude(search, question, screen)


def conclude(search: Search, question: str, screen: Screen) -> SearchOutcome:
    """Write tables, report and configurations of the results so far."""
    from hbt_ray.report.search_page import write_search_page
    from hbt_ray.tune.results import results_table, write_results
    from hbt_ray.tune.search_state import trial_run

    state, objectives = search.state, search.settings.objectives
    front = state.front(objectives)
    for trial in front:
        _export(trial_run(search.folder, trial))
    configs = write_results(search.folder, state, objectives, search.config)
    page = write_search_page(search.folder, state, search.space, search.settings, question)
    screen.table(results_table(state, objectives))
    screen.log(f"open {page}; the best configurations are in {search.folder / 'best'}")
    return SearchOutcome(state, front, page, configs)


def _export(run: RunDir) -> None:
    """Export the encoder of a trial on the front, so that it can be evaluated like that of any run."""
    from hbt_ray.train.checkpoint.directory import CheckpointDirectory
    from hbt_ray.train.export import export

    if not run.model.exists() and CheckpointDirectory(run.checkpoints).newest():
        export(run)


@contextmanager
def _progress(search: Search, screen: Screen) -> Iterator[None]:
    """Show the search while the block runs: a live table on a terminal, a line now and then elsewhere."""
    done = threading.Event()
    show = _show_table if screen.is_terminal else _print_lines
    thread = threading.Thread(target=show, args=(search, screen, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show_table(search: Search, screen: Screen, done: threading.Event) -> None:
    from rich.live import Live

    with Live(console=screen.rich, transient=True, auto_refresh=False) as live:
        while not done.wait(1):
            live.update(_state_table(search), refresh=True)


def _print_lines(search: Search, screen: Screen, done: threading.Event) -> None:
    from hbt_ray.console import SECONDS_BETWEEN_LINES

    last = ""
    while not done.wait(SECONDS_BETWEEN_LINES):
        if (line := _state_line(search)) != last:
            screen.log(line)
            last = line


def _state_line(search: Search) -> str:
    """Number of trials by status, the best trial, and what is left of the budget."""
    state = search.state
    counts = [
        f"{sum(trial.status == status for trial in state.trials if not trial.posthoc)} {status}"
        for status in ("running", "finished", "stopped", "failed")
    ]
    best = [
        f"best {name} {trial.last(name):.3f} ({_values_text(trial)})"
        for name in search.settings.objectives[:1]
        if (trial := state.best(name))
    ]
    return "; ".join([", ".join(counts) + f" of {search.num_trials}", *best, *_budget_left(search, state)])


def _budget_left(search: Search, state: SearchState) -> list[str]:
    budget, now = search.settings.budget, time.time()
    amounts = [
        (budget.steps, state.steps, "steps"),
        (budget.hours, (state.seconds + now - state.last) / 3600 if state.last else 0, "hours"),
        (budget.gpu_hours, state.gpu_hours(now), "GPU hours"),
    ]
    return [f"{max(0, limit - used):,.3g} {unit} left" for limit, used, unit in amounts if limit is not None]


def _state_table(search: Search) -> Table:
    from rich.table import Table as RichTable

    state, objectives = search.state, search.settings.objectives
    table = RichTable(title=_state_line(search), title_justify="left", box=None, pad_edge=False)
    for column in ("trial", "state", "step", *objectives):
        table.add_column(column, justify="left" if column in ("trial", "state") else "right")
    shown = [trial for trial in state.trials if trial.status == "running"]
    shown += [best for name in objectives if (best := state.best(name)) and best not in shown]
    for trial in shown:
        values = (trial.last(name) for name in objectives)
        cells = ("–" if value is None else f"{value:.3f}" for value in values)
        table.add_row(_values_text(trial), trial.status, f"{trial.step:,} of {trial.steps:,}", *cells)
    return table


def _values_text(trial: Trial) -> str:
    from hbt_ray.tune.space import format_value

    return ", ".join(f"{key.rpartition('.')[2]}={format_value(value)}" for key, value in trial.values.items())
