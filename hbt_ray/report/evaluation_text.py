"""The first sentences of an evaluation page: the main result, and the measures that became worse."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.report.formatting import listing, number_word
from hbt_ray.retrieval.compare import Column, Comparison
from hbt_ray.retrieval.measures import RANK_DISTANCE
from hbt_ray.retrieval.result import MULTILINGUAL


def achievement(comparison: Comparison, num_steps: int = 0, policy: str = "", name_task: bool = False) -> str:
    """A sentence on the multilingual setting, or on the first measure if that setting is missing.

    Args:
        num_steps: number of training steps of a single system; 0 if unknown.
        policy: name of the mixture of its batches.
        name_task: start with the name of the task, for pages with several tasks.
    """
    preferred = (Column(MULTILINGUAL, "AP"), Column(MULTILINGUAL, RANK_DISTANCE))
    columns = [column for column in preferred if column in comparison.columns] or list(comparison.columns[:1])
    if not columns:
        return f"The results on {comparison.task} hold no measure."
    steps = f"after {num_steps:,} step{'s' * (num_steps != 1)} of {f'{policy} batches' if policy else 'training'}, "
    effort = steps if num_steps else f"with {policy} batches, " if policy else ""
    if len(comparison.candidates) > 1:
        text = _ranking(comparison, columns)
    elif comparison.baseline:
        before, after = comparison.systems
        text = (effort or f"from {before.label} to {after.label}, ") + _change(comparison, columns)
    else:
        system = comparison.systems[0]
        values = [f"{column.name} is {column.text(column.value(system.result))}" for column in columns]
        text = (effort or f"with {system.label}, ") + " and ".join(values) + "."
    text = f"on {comparison.task}, {text}" if name_task else text
    return text[0].upper() + text[1:]


def regressions(comparison: Comparison) -> str:
    """The measures in which a single system is worse than the baseline; empty if there are none."""
    if comparison.baseline is None or len(comparison.candidates) != 1:
        return ""
    before, after = comparison.systems
    worse = []
    for column in comparison.columns:
        old, new = column.value(before.result), column.value(after.result)
        if old is not None and new is not None and column.is_better(old, new):
            worse.append(f"{column.name} ({column.text(old)}\u00a0→\u00a0{column.text(new)})")
    if worse and len(worse) == len(comparison.columns):
        return f"Every measure on {comparison.task} is worse than the baseline."
    return f"Worse than the baseline on {comparison.task}: {listing(worse)}." if worse else ""


def _change(comparison: Comparison, columns: Sequence[Column]) -> str:
    """The change of each measure from the baseline to the one system."""
    before, after = comparison.systems
    parts, outcomes = [], []
    for column in columns:
        old, new = column.value(before.result), column.value(after.result)
        outcomes.append(None if old is None or new is None or old == new else column.is_better(new, old))
        if old is None or new is None:
            change = "is missing" if new is None else f"is {column.text(new)}"
        elif old == new:
            change = f"stayed at {column.text(new)}"
        else:
            change = f"{'rose' if new > old else 'fell'} from {column.text(old)} to {column.text(new)}"
        parts.append(f"{column.name} {change}")
    # `but` joins different outcomes, such as a gain and a loss.
    text = (" but " if len(set(outcomes)) > 1 else " and ").join(parts)
    if all(better is False for better in outcomes):
        return text + ": worse than the baseline" + (" on both." if len(parts) > 1 else ".")
    return text + "."


def _ranking(comparison: Comparison, columns: Sequence[Column]) -> str:
    """The best of several systems in each measure, and whether it is better than the baseline."""
    baseline = comparison.baseline
    claims: list[tuple[str, str]] = []
    not_better: list[str] = []
    for column in columns:
        best = column.best(column.value(system.result) for system in comparison.candidates)
        if best is None:
            continue
        leaders = [system.label for system in comparison.candidates if column.value(system.result) == best]
        reference = column.value(baseline.result) if baseline else None
        aside = f" (baseline {column.text(reference)})" if reference is not None else ""
        verb = "has" if len(leaders) == 1 else "share"
        extreme = "lowest" if column.lower_is_better else "highest"
        claims.append((f"{listing(leaders)} {verb}", f"the {extreme} {column.name}, {column.text(best)}{aside}"))
        if reference is not None and not column.is_better(best, reference):
            not_better.append(column.name)
    text = f"of {number_word(len(comparison.candidates))} systems, "
    # One subject for both measures if the same systems lead in both.
    if len(claims) > 1 and len({subject for subject, _ in claims}) == 1:
        text += f"{claims[0][0]} {', and '.join(predicate for _, predicate in claims)}."
    else:
        text += ", and ".join(f"{subject} {predicate}" for subject, predicate in claims) + "."
    return text + (f" No system beats the baseline in {listing(not_better)}." if not_better else "")
