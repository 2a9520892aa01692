"""The board: what a search has found so far, read from its folder; whoever runs the search writes it there.

SEARCH/search.yaml      what is searched, and how; the same command continues it
SEARCH/events.jsonl     one line an event: a trial started, told a row, ended, failed
SEARCH/trials/NAME/     the run of a trial
SEARCH/tune/            what Ray Tune remembers
SEARCH/best/            configurations to train with, one for each objective
SEARCH/trials.parquet, trials.json, report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hbt_ray.run_dir import RunDir
from hbt_ray.storage import read_json_lines
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.space import SEED

EVENTS = "events.jsonl"
OTHER_DEV_SET = "it was measured on another dev set than the newest trials, so its figures cannot be compared"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One configuration, and how far it came."""

    trial_id: str
    name: str
    values: dict[str, Any]
    steps: int
    """That it was to train."""
    gpus: float = 0
    """That it holds while it runs."""
    status: Status = "running"
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step → measures."""
    seconds: float = 0
    """That it ran, in all its attempts."""
    attempts: int = 0
    error: str = ""
    """The last one."""
    since: float = 0
    """When its attempt began, or when its last row came, by the clock; 0 while it does not run."""
    fix: str = ""
    """Of the vectors of the trial of this name, which trained; this one only measures."""
    pool: str = ""
    """Fingerprint of the dev set of its last row."""

    @property
    def step(self) -> int:
        return max(self.rows, default=0)

    @property
    def group(self) -> tuple[tuple[str, Any], ...]:
        """Its values without the seed, which repetitions share."""
        return tuple((key, _hashable(value)) for key, value in self.values.items() if key != SEED)

    def seconds_until(self, now: float) -> float:
        """That it ran, up to a time of the clock."""
        return self.seconds + (now - self.since if self.since else 0.0)

    def end(self, when: float) -> None:
        """It does not run from then on."""
        self.seconds, self.since = self.seconds_until(when), 0

    def best(self, objective: str) -> float | None:
        """Of its rows."""
        values = [row[objective] for row in self.rows.values() if objective in row]
        return (min if objective in LOWER_IS_BETTER else max)(values) if values else None

    def last(self, objective: str) -> float | None:
        """At its last step."""
        return self.rows[self.step].get(objective) if self.rows else None


@dataclass(frozen=True)
class SearchState:
    """What is there."""

    trials: list[Trial]
    """In the order in which they began."""
    seconds: float = 0
    """Of the clock, in all sessions of the search, each until its last event."""
    last: float = 0
    """When the last event was, by the clock."""

    @classmethod
    def of(cls, folder: Path) -> SearchState:
        """Of a search's folder; no trials where it has not begun."""
        trials: dict[str, Trial] = {}
        seconds = session = last = 0.0
        pool = ""
        for event in read_json_lines(folder / EVENTS, checked=True):
            if event["event"] == "session":
                seconds, session = seconds + last - session, event["time"]
                for trial in trials.values():
                    trial.end(last)  # What ran under a driver that died does not run any more.
            else:
                _fold(trials, event)
                pool = event.get("pool") or pool
            last = event["time"]
        for trial in trials.values():
            # The dev store was replaced between two sessions: what was measured on it before compares with nothing now.
            if trial.pool not in ("", pool) and trial.status in ("finished", "stopped"):
                trial.status, trial.error = "failed", OTHER_DEV_SET
        return cls(list(trials.values()), seconds + last - session, last)

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == "finished"]

    @property
    def steps(self) -> int:
        """That were trained, as far as trials told."""
        return sum(trial.step for trial in self.trials if not trial.fix)

    def gpu_hours(self, now: float) -> float:
        """Up to a time of the clock."""
        return sum(trial.gpus * trial.seconds_until(now) for trial in self.trials) / 3600

    def best(self, objective: str) -> Trial | None:
        """Of the finished trials, by their last step."""
        scored = [trial for trial in self.finished if trial.last(objective) is not None]
        if not scored:
            return None
        sign = -1 if objective in LOWER_IS_BETTER else 1
        return max(scored, key=lambda trial: sign * (trial.last(objective) or 0))

    def front(self, objectives: Iterable[str]) -> list[Trial]:
        """The Pareto front of the finished trials: none is at least as good in all and better in one."""
        objectives = tuple(objectives)
        scored = [
            (trial, tuple((-1 if name in LOWER_IS_BETTER else 1) * (trial.last(name) or 0) for name in objectives))
            for trial in self.finished
            if all(trial.last(name) is not None for name in objectives)
        ]
        return [trial for trial, own in scored if not any(_dominates(other, own) for _, other in scored)]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def run_of(folder: Path, trial: Trial) -> RunDir:
    return RunDir(folder / "trials" / trial.name)


def _fold(trials: dict[str, Trial], event: Mapping[str, Any]) -> None:
    kind, when, fix = event["event"], event["time"], event.get("fix", "")
    trial_id = f"{event['trial']}+{fix}" if fix else event["trial"]
    values = event["values"] | ({"posthoc": fix} if fix else {})
    if (trial := trials.get(trial_id)) is None:
        trial = trials[trial_id] = Trial(trial_id, event["name"], values, event["steps"], event["gpus"], fix=fix)
    trial.steps = event["steps"] or trial.steps  # Not known before its first row.
    trial.values = values  # A population changes them.
    if kind == "started":
        trial.status, trial.since, trial.attempts = "running", when, trial.attempts + 1
    elif kind == "row":
        trial.rows[event["row"]["step"]] = event["row"]
        trial.pool = event.get("pool") or trial.pool
        trial.seconds, trial.since = trial.seconds_until(when), when  # A population's members pause after a row.
    else:
        trial.end(when)
        trial.status, trial.error = kind, event.get("error", trial.error)


def _hashable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
