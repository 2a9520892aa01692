"""What a search leaves: a table to look at, the curves of all trials for machines, the best configurations to train."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from hbt_ray.storage import atomic_file, write_text
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.state import SearchState, Trial

ConfigOf = Callable[[Trial, str], TrainConfig]
"""The configuration that trains what a trial trained, under a name."""


def results_table(board: SearchState, objectives: Sequence[str], most: int = 20) -> Table:
    """Finished trials, the best of the first objective first, those of the Pareto front marked; then what failed."""
    front = {trial.trial_id for trial in board.front(objectives)}
    keys = list(dict.fromkeys(key for trial in board.trials for key in trial.values))
    table = Table(caption="* on the Pareto front: no trial is better in one objective and as good in the others",
                  box=None, pad_edge=False)  # fmt: skip
    table.add_column("")
    for key in keys:
        table.add_column(key.rpartition(".")[2])
    for name in objectives:
        table.add_column(f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}", justify="right")
    ordered = _ordered(board.finished, objectives[0])
    for trial in ordered[:most]:
        figures = (_figure(trial.last(name)) for name in objectives)
        mark = "*" if trial.trial_id in front else ""
        table.add_row(mark, *(short(trial.values.get(key, "")) for key in keys), *figures)
    if len(ordered) > most:
        table.add_row("", f"… and {len(ordered) - most} more")
    for trial in board.trials:
        if trial.status == "failed":
            table.add_row("✗", *(short(trial.values.get(key, "")) for key in keys), f"failed: {trial.error}")
    return table


def write_results(folder: Path, board: SearchState, objectives: Sequence[str], config_of: ConfigOf) -> list[Path]:
    """Write `trials.parquet`, `trials.json` and `best/OBJECTIVE.yaml`; returns the last."""
    _write_curves(folder / "trials.parquet", board.trials)
    text = json.dumps([_told(trial) for trial in board.trials], indent=1, ensure_ascii=False, default=str)
    write_text(folder / "trials.json", text)
    return [
        _write_config(folder / "best" / f"{name}.yaml", best, name, config_of)
        for name in objectives
        if (best := board.best(name))
    ]


def _write_curves(path: Path, trials: Iterable[Trial]) -> None:
    """A row for every trial and step; values stand in columns of their keys, as JSON where they have parts."""
    rows = [
        {
            "trial": trial.trial_id,
            "name": trial.name,
            "status": trial.status,
            **{key: _plain(value) for key, value in trial.values.items()},
            **row,
        }
        for trial in trials
        for row in (trial.rows[step] for step in sorted(trial.rows))
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    with atomic_file(path) as scratch:
        pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), scratch)


def _column(values: list[Any]) -> pa.Array:
    """Of one type; as text where values have several."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])


def _told(trial: Trial) -> Mapping[str, Any]:
    about = {"trial": trial.trial_id, "name": trial.name, "values": trial.values, "status": trial.status}
    how = {"steps": trial.steps, "seconds": round(trial.seconds, 3), "attempts": trial.attempts, "error": trial.error}
    return {**about, **how, "curve": [trial.rows[step] for step in sorted(trial.rows)]}


def _write_config(path: Path, trial: Trial, objective: str, config_of: ConfigOf) -> Path:
    config = config_of(trial, f"best-{objective}")
    then = f", with `hbt posthoc` --method {trial.fix} after training" if trial.fix else ""
    note = (
        f"# The best {objective} of the search, {_figure(trial.last(objective))} on the dev store{then}: {trial.name}\n"
    )
    return write_text(path, note + config.to_yaml())


def _ordered(trials: Iterable[Trial], objective: str) -> list[Trial]:
    """The best first, those without a value last."""
    sign = 1 if objective in LOWER_IS_BETTER else -1
    return sorted(trials, key=lambda one: (one.last(objective) is None, sign * (one.last(objective) or 0)))


def short(value: Any) -> str:
    """Of a value that was tried, for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else json.dumps(value, ensure_ascii=False)


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
