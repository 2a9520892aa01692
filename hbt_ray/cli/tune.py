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
    from hbt_ray.console import Screen
    from hbt_ray.run_dir import RunDir
    from hbt_ray.tune.search import Search
    from hbt_ray.tune.search_state import SearchState, Trial

SECONDS_BETWEEN_LINES = 10.0
_STATUSES = ("running", "finished", "stopped", "failed")


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
    # A copy, since overrides change nested values in place.
    defaults = {"search": deepcopy(dict(loaded.settings))}
    settings = TuneSettings.load(config, [f"name={module_name}", *(overrides or ())], defaults)
    search = TrialSearch(loaded, space, settings.training, settings.search)
    # No spare CPUs: the number of trials at a time is derived from the cluster's.
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
    import ray

    from hbt_ray.doctor.run import check_shared
    from hbt_ray.tune.tuner import exhausted_budget

    with exclusive_search(search):
        check_shared(search.folder)
        settings = search.settings
        max_concurrent = search.max_concurrent(ray.cluster_resources())
        concurrent = min(settings.concurrent or max_concurrent, max_concurrent)
        if settings.concurrent and settings.concurrent > max_concurrent:
            screen.log(
                f"search.concurrent={settings.concurrent}, but only {max_concurrent} trials fit; the others wait"
            )
        num_earlier = len(search.state.trials)
        earlier = f", continuing with {num_earlier} trials that began before" if num_earlier else ""
        screen.log(f"searching {search.folder}: {search.num_trials} trials, {concurrent} at a time{earlier}")
        with _progress(search, screen):
            state = search.run(concurrent)
        if reason := exhausted_budget(state, settings.budget, state.last):
            screen.log(f"the budget ended the search: {reason}")
        return conclude(search, question, screen)


def exclusive_search(search: Search) -> AbstractContextManager[None]:
    """The search's lock, for commands that write its folder."""
    return exclusive_lock(search.folder, "searching")


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
    """Print a line about the search every few seconds while the block runs, if it has changed."""
    ended = threading.Event()

    def print_lines() -> None:
        last = ""
        while not ended.wait(SECONDS_BETWEEN_LINES):
            if (line := _state_line(search)) != last:
                screen.log(line)
                last = line

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _state_line(search: Search) -> str:
    """Number of trials by status, the best trial, and the rest of the budget."""
    from hbt_ray.tune.space import format_value

    state, best = search.state, ""
    counts = [
        f"{sum(trial.status == status for trial in state.trials if not trial.posthoc)} {status}" for status in _STATUSES
    ]
    name = search.settings.objectives[0]
    if trial := state.best(name):
        values = ", ".join(f"{key.rpartition('.')[2]}={format_value(value)}" for key, value in trial.values.items())
        best = f"; best {name} {trial.last(name):.3f} ({values})"
    budget, now = search.settings.budget, time.time()
    # Finished sessions last until their last event, the current one until now.
    amounts = [
        (budget.steps, state.steps, "steps"),
        (budget.hours, (state.seconds + now - state.last) / 3600 if state.last else 0, "hours"),
        (budget.gpu_hours, state.gpu_hours(now), "GPU hours"),
    ]
    left = [f"; {max(0, limit - used):,.3g} {unit} left" for limit, used, unit in amounts if limit is not None]
    return f"{', '.join(counts)} of {search.num_trials}{best}{''.join(left)}"
