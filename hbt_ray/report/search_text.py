"""Sentences of a search page: the answer, if there is one, the cost of the search, and caveats."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.report.formatting import (
    duration,
    listing,
    mean_with_interval,
    number_word,
    objective_name,
    objective_value,
    settings_text,
)
from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.critical_batch import CriticalBatchFit, NoFit
from hbt_ray.tune.search_state import SearchState, SeedGroup, ranked_groups

STATUSES = ("finished", "stopped", "running", "failed")


def paragraphs(docstring: str) -> list[str]:
    """Paragraphs of the docstring of a search space, each on one line. The first is the question."""
    return [" ".join(part.split()) for part in docstring.strip().split("\n\n") if part.strip()]


def answer(state: SearchState, groups: Sequence[SeedGroup], objective: str) -> str:
    """One or two sentences on the best settings for an objective, undecided if the two best intervals overlap."""
    name = objective_name(objective)
    ranking = ranked_groups(groups, objective)
    if not groups:
        failed = sum(trial.status == "failed" for trial in state.trials)
        if failed and failed == len(state.trials):
            return "There is no answer: every trial failed."
        return "There is no answer yet: no trial has finished."
    if not ranking:
        return f"There is no answer: no finished trial measured {name}."
    best, estimate = ranking[0]
    value = mean_with_interval(objective, estimate)
    if len(ranking) == 1:
        return f"Only one choice has finished trials: {settings_text(best.values)}, with {name} at {value}."
    extreme = "lowest" if objective in LOWER_IS_BETTER else "highest"
    choices = f"Of {number_word(len(ranking))} choices, {settings_text(best.values)}"
    return f"{choices} has the {extreme} {name}: {value}. {_certainty(objective, estimate, *ranking[1])}"


def summary(state: SearchState) -> str:
    """Number of trials by status, and the time that they took."""
    if not state.trials:
        return "The search has no trial yet."
    total = len(state.trials)
    counts = {status: sum(trial.status == status for trial in state.trials) for status in STATUSES}
    statuses = listing([f"{'all' if n == total > 1 else n} {status}" for status, n in counts.items() if n])
    hours = state.gpu_hours(state.last)
    gpus = f" and {hours:,.3g} GPU hours" if hours else ""
    return (
        f"{total:,} trial{'s' * (total != 1)}: {statuses}. They trained {state.steps:,} steps in "
        f"{duration(state.seconds)} of wall-clock time{gpus}."
    )


def caveats(state: SearchState, groups: Sequence[SeedGroup]) -> list[str]:
    """Sentences on what limits the means and intervals: few seeds, unfinished trials."""
    sentences = []
    seeds = {len(group.trials) for group in groups}
    if seeds == {1}:
        sentences.append("Every choice has one seed, so differences may be chance.")
    elif len(seeds) > 1:
        sentences.append(f"Choices have between {min(seeds)} and {max(seeds)} finished seeds.")
    unfinished = len(state.trials) - len(state.finished)
    if groups and unfinished == 1:
        sentences.append("The trial that did not finish is not in these charts.")
    elif groups and unfinished:
        sentences.append(f"The {unfinished} trials that did not finish are not in these charts.")
    return sentences


def critical_text(critical: CriticalBatchFit | NoFit, objective: str) -> str:
    """The critical batch size and how it was determined, or the reason why it is unknown."""
    if isinstance(critical, NoFit):
        return f"Unknown: {critical.reason}"
    return (
        f"{critical.text} Steps are counted until {objective_name(objective)} is "
        f"{objective_value(objective, critical.target)}, the best value that every batch size reaches, each with the "
        "other settings that need the fewest steps. Below the critical size, batches twice as large need nearly half "
        "the steps; at the critical size they need 1.2 times the steps of linear scaling (arXiv 2410.21676)."
    )


def _certainty(objective: str, best: SeedInterval, second: SeedGroup, runner_up: SeedInterval) -> str:
    text = f"{settings_text(second.values)} at {mean_with_interval(objective, runner_up)}"
    overlaps = best.overlaps(runner_up)
    if overlaps is None:
        return f"It is undecided whether that is chance: the runner-up is {text}, and one seed has no interval."
    if overlaps:
        return f"It is undecided which is best: the interval overlaps with that of the runner-up, {text}."
    return f"Its interval is apart from that of the runner-up, {text}."
