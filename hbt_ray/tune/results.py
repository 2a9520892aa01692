"""Results of a search: a table for the terminal, the curves of all trials as files, the best configurations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from hbt_ray.storage import atomic_file, write_text
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.config import LOWER_IS_BETTER, sign
from hbt_ray.tune.search_state import SearchState, Trial
from hbt_ray.tune.space import format_value

ConfigOf = Callable[[Trial, str], TrainConfig]
"""The configuration that trains a trial's encoder again, under a name."""


def results_table(state: SearchState, objectives: Sequence[str], max_rows: int = 20) -> Table:
    """Finished trials, the best of the first objective first, with the Pareto front marked; then failed trials."""
    front = {trial.trial_id for trial in state.front(objectives)}
    keys = list(dict.fromkeys(key for trial in state.trials for key in trial.values))
    caption = "* on the Pareto front: no trial is better in one objective and as good in the others"
    table = Table(caption=caption, box=None, pad_edge=False)
    table.add_column("")
    for key in keys:
        table.add_column(key.rpartition(".")[2])
    for name in objectives:
        table.add_column(f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}", justify="right")

    def values(trial: Trial) -> list[str]:
        return [format_value(trial.values.get(key, "")) for key in keys]

    def cost(trial: Trial) -> float:  # Lowest first; trials without the measure come last.
        value = trial.last(objectives[0])
        return math.inf if value is None else -sign(objectives[0]) * value

    finished = sorted(state.finished, key=cost)
    for trial in finished[:max_rows]:
        measures = (_format_measure(trial.last(name)) for name in objectives)
        table.add_row("*" if trial.trial_id in front else "", *values(trial), *measures)
    if len(finished) > max_rows:
        table.add_row("", f"… and {len(finished) - max_rows} more")
    for trial in state.trials:
        if trial.status == "failed":
            table.add_row("✗", *values(trial), f"failed: {trial.error}")
    return table


def write_results(folder: Path, state: SearchState, objectives: Sequence[str], config_of: ConfigOf) -> list[Path]:
    """Write `trials.parquet`, `trials.json` and `best/OBJECTIVE.yaml`; return the paths of the YAML files."""
    _write_curves(folder / "trials.parquet", state.trials)
    summaries = [_summary(trial) for trial in state.trials]
    write_text(folder / "trials.json", json.dumps(summaries, indent=1, ensure_ascii=False, default=str))
    return [
        _write_config(folder / "best" / f"{name}.yaml", best, name, config_of)
        for name in objectives
        if (best := state.best(name))
    ]


def _write_curves(path: Path, trials: Iterable[Trial]) -> None:
    """One row for each trial and step, one column for each searched key; nested values are JSON."""
    rows = [
        {
            "trial": trial.trial_id,
            "name": trial.name,
            "status": trial.status,
            **{key: _scalar(value) for key, value in trial.values.items()},
            **trial.rows[step],
        }
        for trial in trials
        for step in sorted(trial.rows)
    ]
    # Trials differ in their keys: entries of transforms have one more. Missing values are null.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    with atomic_file(path) as scratch:
        pq.write_table(pa.table(columns), scratch)


def _column(values: list[Any]) -> pa.Array:
    """A column of one type; values of several types become text."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])


def _summary(trial: Trial) -> Mapping[str, Any]:
    return {
        "trial": trial.trial_id,
        "name": trial.name,
        "values": trial.values,
        "status": trial.status,
        "steps": trial.steps,
        "seconds": round(trial.seconds, 3),
        "attempts": trial.attempts,
        "error": trial.error,
        "curve": [trial.rows[step] for step in sorted(trial.rows)],
    }


def _write_config(path: Path, trial: Trial, objective: str, config_of: ConfigOf) -> Path:
    config = config_of(trial, f"best-{objective}")
    posthoc = f", with `hbt posthoc` --method {trial.posthoc} after training" if trial.posthoc else ""
    measure = _format_measure(trial.last(objective))
    comment = f"# The best {objective} of the search, {measure} on the dev store{posthoc}: {trial.name}\n"
    return write_text(path, comment + config.to_yaml())


def _scalar(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else json.dumps(value, ensure_ascii=False)


def _format_measure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
