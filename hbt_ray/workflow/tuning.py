"""Tuning: a space and a configuration → trials, what they found, and the best of them as configurations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from rich.live import Live
from rich.table import Table

from hbt_ray.console import SECONDS_BETWEEN_LINES, Screen
from hbt_ray.doctor.shared_storage import check_shared
from hbt_ray.report.search.page import write_report
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import exclusive_lock
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.export import export
from hbt_ray.tune.results import results_table, write_results
from hbt_ray.tune.search import Search
from hbt_ray.tune.space import format_value
from hbt_ray.tune.state import SearchState, Trial, trial_run
from hbt_ray.tune.tuner import exhausted_budget


@dataclass(frozen=True)
class SearchOutcome:
    """What a search leaves."""

    state: SearchState
    front: list[Trial]
    report: Path
    configs: list[Path]
    """The best configurations, for `hbt train`."""


def run_search(search: Search, question: str, screen: Screen) -> SearchOutcome:
    """Search to the end, or go on. Needs a Ray session.

    Raises:
        ConfigError: a node does not see where the trials are written.
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
    check_shared(search.folder)
    settings = search.settings
    room = search.max_concurrent(ray.cluster_resources())
    concurrent = min(settings.concurrent or room, room)
    if settings.concurrent and settings.concurrent > room:
        screen.say(f"{settings.concurrent} trials at a time were asked for and {room} have room; the others queue")
    begun = len(search.state.trials)
    goes_on = f", going on with {begun} that began before" if begun else ""
    screen.say(f"searching {search.folder}: {search.num_trials} trials, {concurrent} at a time{goes_on}")
    with _told(search, screen):
        state = search.run(concurrent)
    if why := exhausted_budget(state, settings.budget, state.last):
        screen.say(f"the budget ended the search: {why}")
    return conclude(search, question, screen)


def conclude(search: Search, question: str, screen: Screen) -> SearchOutcome:
    """Tables, page and configurations of what was found so far."""
    state, objectives = search.state, search.settings.objectives
    front = state.front(objectives)
    for trial in front:
        _export(trial_run(search.folder, trial))
    configs = write_results(search.folder, state, objectives, search.config)
    page = write_report(search.folder, state, search.space, search.settings, question)
    screen.table(results_table(state, objectives))
    screen.say(f"open {page}; the best configurations are in {search.folder / 'best'}")
    return SearchOutcome(state, front, page, configs)


def _export(run: RunDir) -> None:
    """Of a trial on the front; its encoder can be judged like that of any run."""
    if not run.model.exists() and CheckpointDirectory(run.checkpoints).newest():
        export(run)


@contextmanager
def _told(search: Search, screen: Screen) -> Iterator[None]:
    """While the block runs: a table that moves on a terminal, a line now and then elsewhere."""
    over = threading.Event()
    tell = _show_live if screen.is_terminal else _say_lines
    thread = threading.Thread(target=tell, args=(search, screen, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show_live(search: Search, screen: Screen, over: threading.Event) -> None:
    with Live(console=screen.rich, transient=True, auto_refresh=False) as live:
        while not over.wait(1):
            live.update(_state_table(search), refresh=True)


def _say_lines(search: Search, screen: Screen, over: threading.Event) -> None:
    said = ""
    while not over.wait(SECONDS_BETWEEN_LINES):
        if (line := _state(search)) != said:
            screen.say(line)
            said = line


def _state(search: Search) -> str:
    """How many trials are where, what is best, what is left of the budget."""
    state = search.state
    counts = [f"{sum(trial.status == status for trial in state.trials if not trial.posthoc)} {status}"
              for status in ("running", "finished", "stopped", "failed")]  # fmt: skip
    best = [
        f"best {name} {trial.last(name):.3f} ({_values(trial)})"
        for name in search.settings.objectives[:1]
        if (trial := state.best(name))
    ]
    return "; ".join([", ".join(counts) + f" of {search.num_trials}", *best, *_left(search, state)])


def _left(search: Search, state: SearchState) -> list[str]:
    budget, now = search.settings.budget, time.time()
    left = [
        (budget.steps, state.steps, "steps"),
        (budget.hours, (state.seconds + now - state.last) / 3600 if state.last else 0, "hours"),
        (budget.gpu_hours, state.gpu_hours(now), "GPU hours"),
    ]
    return [f"{max(0, allowed - used):,.3g} {what} left" for allowed, used, what in left if allowed is not None]


def _state_table(search: Search) -> Table:
    state, objectives = search.state, search.settings.objectives
    table = Table(title=_state(search), title_justify="left", box=None, pad_edge=False)
    for column in ("trial", "state", "step", *objectives):
        table.add_column(column, justify="left" if column in ("trial", "state") else "right")
    shown = [trial for trial in state.trials if trial.status == "running"]
    shown += [best for name in objectives if (best := state.best(name)) and best not in shown]
    for trial in shown:
        values = (trial.last(name) for name in objectives)
        figures = ("–" if value is None else f"{value:.3f}" for value in values)
        table.add_row(_values(trial), trial.status, f"{trial.step:,} of {trial.steps:,}", *figures)
    return table


def _values(trial: Trial) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={format_value(value)}" for key, value in trial.values.items())
