"""The sentences of the page: the question, the answer as far as there is one, and what the search took."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.report.labels import duration, listing, number
from hbt_ray.report.search import labels as words
from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.state import SearchState, SeedGroup, ranked_groups

_STATES = ("finished", "stopped", "running", "failed")


def paragraphs(docstring: str) -> list[str]:
    """Of a space: the first is its question."""
    return [" ".join(part.split()) for part in docstring.strip().split("\n\n") if part.strip()]


def answer(board: SearchState, groups: Sequence[SeedGroup], objective: str) -> str:
    """One or two sentences on the first objective, undecided where the intervals do not decide."""
    name = words.label(objective)
    order = ranked_groups(groups, objective)
    if not groups:
        failed = sum(trial.status == "failed" for trial in board.trials)
        if failed and failed == len(board.trials):
            return "There is no answer: every trial failed."
        return "There is no answer yet: no trial has finished."
    if not order:
        return f"There is no answer: no finished trial measured {name}."
    best, estimate = order[0]
    if len(order) == 1:
        return (
            f"Only one choice has finished trials: {words.choice(best.values)}, with {name} at "
            f"{words.told(objective, estimate)}."
        )
    extreme = "lowest" if objective in LOWER_IS_BETTER else "highest"
    first = (
        f"Of {number(len(order))} choices, {words.choice(best.values)} has the {extreme} {name}: "
        f"{words.told(objective, estimate)}."
    )
    return f"{first} {_sentence_of(objective, estimate, *order[1])}"


def summary(board: SearchState) -> str:
    """How many trials came how far, and what they took."""
    if not board.trials:
        return "The search has no trial yet."
    total = len(board.trials)
    counts = {state: sum(trial.status == state for trial in board.trials) for state in _STATES}
    states = listing([f"{'all' if count == total > 1 else count} {state}" for state, count in counts.items() if count])
    hours = board.gpu_hours(board.last)
    gpus = f" and {hours:,.3g} GPU hours" if hours else ""
    return (
        f"{total:,} trial{'s' * (total != 1)}: {states}. They trained {board.steps:,} steps in "
        f"{duration(board.seconds)} of the clock{gpus}."
    )


def caveats(board: SearchState, groups: Sequence[SeedGroup]) -> list[str]:
    """What a reader of means and intervals has to know, a sentence each."""
    found = []
    seeds = {len(group.trials) for group in groups}
    if seeds == {1}:
        found.append("Every choice has one seed, so nothing says what is chance.")
    elif len(seeds) > 1:
        found.append(f"Choices have between {min(seeds)} and {max(seeds)} finished seeds.")
    left = len(board.trials) - len(board.finished)
    if groups and left:
        found.append(f"The {left} trials that did not finish are not in these figures." if left > 1 else
                     "The trial that did not finish is not in these figures.")  # fmt: skip
    return found


def _sentence_of(objective: str, best: SeedInterval, second: SeedGroup, runner_up: SeedInterval) -> str:
    told = f"{words.choice(second.values)} at {words.told(objective, runner_up)}"
    overlaps = best.overlaps(runner_up)
    if overlaps is None:
        return f"It is undecided whether that is chance: the runner-up is {told}, and one seed has no interval."
    if overlaps:
        return f"It is undecided which is best: the interval overlaps with that of the runner-up, {told}."
    return f"Its interval is apart from that of the runner-up, {told}."
