"""The state of a search, read from the events in its folder, and its trials grouped by seed.

SEARCH/search.yaml      space, settings and base configuration; the same command continues the search
SEARCH/events.jsonl     one event a line: a trial started, reported a row, finished, was stopped or failed
SEARCH/trials/NAME/     the run of a trial
SEARCH/tune/            the state of Ray Tune
SEARCH/best/            configurations to train with, one for each objective
SEARCH/trials.parquet, trials.json, report.html

Ray Tune's own state is not enough for this: it is written every ten seconds at most, does not distinguish finished from
stopped trials, and holds neither the time of earlier sessions nor the dev set of a row.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge
from pathlib import Path
from typing import Any, Literal

from hbt_ray.retrieval.significance import SeedInterval
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import read_json_lines
from hbt_ray.tune.config import sign
from hbt_ray.tune.space import SEED

EVENTS = "events.jsonl"
OTHER_DEV_SET = "the dev store was replaced after its last measurement, so its measures cannot be compared"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One configuration and the progress of its training."""

    trial_id: str
    name: str
    """Name of its run's folder."""
    values: dict[str, Any]
    """Value of each searched key, and of the seed."""
    steps: int
    """Steps to train; 0 until its first row."""
    gpus: float = 0
    """GPUs that it holds while it runs."""
    status: Status = "running"
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0
    """Running time in all attempts, up to `since`."""
    attempts: int = 0
    error: str = ""
    since: float = 0
    """Time of its last start or row, in seconds since the epoch; 0 while it does not run."""
    posthoc: str = ""
    """Method of a post-hoc transform. Such an entry has the transformed measures of run `name` and trains nothing."""
    dev_set: str = ""
    """Fingerprint of the dev set of its last row."""

    @property
    def step(self) -> int:
        """The last step with a row."""
        return max(self.rows, default=0)

    @property
    def group(self) -> str:
        """Key of the values without the seed; equal for repetitions."""
        return _as_key({key: value for key, value in self.values.items() if key != SEED})

    def seconds_until(self, now: float) -> float:
        """Running time up to `now`."""
        return self.seconds + (now - self.since if self.since else 0.0)

    def pause(self, now: float) -> None:
        """Stop the running time at `now`."""
        self.seconds, self.since = self.seconds_until(now), 0

    def last(self, objective: str) -> float | None:
        return self.rows[self.step].get(objective) if self.rows else None


@dataclass(frozen=True)
class SearchState:
    """All trials of a search, and the time it took."""

    trials: list[Trial]
    """Trials in the order in which they started."""
    seconds: float = 0
    """Duration of all sessions, each until its last event."""
    last: float = 0
    """Time of the last event, in seconds since the epoch."""

    @classmethod
    def load(cls, folder: Path) -> SearchState:
        """Read the events of a search; no trials if it has not begun."""
        trials: dict[str, Trial] = {}
        seconds = session_start = last = 0.0
        dev_store = ""
        for event in read_json_lines(folder / EVENTS, checked=True):
            if event["event"] == "session":
                # A session lasts until its last event, so the time between two sessions does not count.
                seconds, session_start = seconds + last - session_start, event["time"]
                for trial in trials.values():
                    trial.pause(last)  # A trial that ran under a killed driver ended with it.
            else:
                _apply(trials, event)
                dev_store = _dev_store(event.get("dev_set", "")) or dev_store
            last = event["time"]
        for trial in trials.values():
            # If the dev store was replaced between two sessions, earlier measures cannot be compared with later ones.
            if _dev_store(trial.dev_set) not in ("", dev_store) and trial.status in ("finished", "stopped"):
                trial.status, trial.error = "failed", OTHER_DEV_SET
        return cls(list(trials.values()), seconds + last - session_start, last)

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == "finished"]

    @property
    def steps(self) -> int:
        return sum(trial.step for trial in self.trials if not trial.posthoc)

    def gpu_hours(self, now: float) -> float:
        return sum(trial.gpus * trial.seconds_until(now) for trial in self.trials) / 3600

    def best(self, objective: str) -> Trial | None:
        measured = [trial for trial in self.finished if trial.last(objective) is not None]
        return max(measured, key=lambda trial: sign(objective) * (trial.last(objective) or 0), default=None)

    def front(self, objectives: Iterable[str]) -> list[Trial]:
        """The Pareto front of the finished trials: no other is as good in all objectives and better in one."""
        objectives = tuple(objectives)
        scores = [
            (trial, tuple(sign(name) * (trial.last(name) or 0) for name in objectives))
            for trial in self.finished
            if all(trial.last(name) is not None for name in objectives)
        ]
        return [
            trial
            for trial, score in scores
            # Dominated: another is as good in all objectives and differs, so it is better in one.
            if not any(other != score and all(map(ge, other, score)) for _, other in scores)
        ]


def trial_run(folder: Path, trial: Trial) -> RunDir:
    return RunDir(folder / "trials" / trial.name)


def _dev_store(dev_set: str) -> str:
    """The hash of the store in the fingerprint of a dev set. Trials may differ in the rest, such as the languages."""
    return dev_set.partition("-")[0]


def _apply(trials: dict[str, Trial], event: Mapping[str, Any]) -> None:
    kind, now, posthoc = event["event"], event["time"], event.get("posthoc", "")
    trial_id = f"{event['trial']}+{posthoc}" if posthoc else event["trial"]
    values = event["values"] | ({"posthoc": posthoc} if posthoc else {})
    if (trial := trials.get(trial_id)) is None:
        trial = Trial(trial_id, event["name"], values, event["steps"], event["gpus"], posthoc=posthoc)
        trials[trial_id] = trial
    trial.steps = event["steps"] or trial.steps  # Unknown before the first row.
    trial.values = values  # PBT changes them.
    if kind == "started":
        trial.status, trial.since, trial.attempts = "running", now, trial.attempts + 1
    elif kind == "row":
        trial.rows[event["row"]["step"]] = event["row"]
        trial.dev_set = event.get("dev_set") or trial.dev_set
        trial.seconds, trial.since = trial.seconds_until(now), now  # Members of a population pause after a row.
    else:
        trial.pause(now)
        trial.status, trial.error = kind, event.get("error", "")


def _as_key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class SeedGroup:
    """Finished trials with the same values except for the seed.

    The interval of their mean is Student's over the seeds. It says how far the mean would move with other initial
    weights and dropout; the batches are the same in all of them, so it does not cover other batches or other data.
    """

    values: dict[str, Any]
    trials: tuple[Trial, ...]

    def estimate(self, objective: str) -> SeedInterval | None:
        """Mean and interval over the trials with a finite value; None if there is none."""
        last = [trial.last(objective) for trial in self.trials]
        values = [value for value in last if value is not None and math.isfinite(value)]
        return SeedInterval.from_values(values) if values else None


def seed_groups(state: SearchState, varied: str) -> list[SeedGroup]:
    """Group the finished trials; sorted by the varied key if all its values are numbers, else by their start."""
    trials_by_group: dict[str, list[Trial]] = defaultdict(list)
    for trial in state.finished:
        trials_by_group[trial.group].append(trial)
    groups = [
        SeedGroup({key: value for key, value in trials[0].values.items() if key != SEED}, tuple(trials))
        for trials in trials_by_group.values()
    ]
    if all(is_number(group.values.get(varied)) for group in groups):
        groups.sort(key=lambda group: float(group.values[varied]))
    return groups


def ranked_groups(groups: Sequence[SeedGroup], objective: str) -> list[tuple[SeedGroup, SeedInterval]]:
    """The groups with a value of the objective, the best mean first."""
    estimates = [(group, estimate) for group in groups if (estimate := group.estimate(objective))]
    return sorted(estimates, key=lambda pair: -sign(objective) * pair[1].mean)


def is_number(value: object) -> bool:
    """Whether a value is a finite number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
