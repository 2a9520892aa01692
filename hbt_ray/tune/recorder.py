"""The recorder: what Ray Tune calls in the driver as trials go on, with nothing in it but the search's folder.

Tune keeps it with its own state and brings it back when a search goes on, so it holds neither console nor cluster.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.tune import Callback

from hbt_ray import ray_compat
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import append_json_lines, remove_tree
from hbt_ray.train.placement_group import give_back
from hbt_ray.tune.state import EVENTS, SearchState, run_of
from hbt_ray.tune.trial import COMPLETE, FIXED, POOL, PROCESS, STEPS, run_folder

_PATIENCE_SECONDS = 30.0
_OF_TUNE = {"timestamp", "done", "trial_id", "date", "pid", "hostname", "node_ip", "config", "checkpoint_dir_name",
            "training_iteration", "iterations_since_restore", "experiment_tag", "should_checkpoint", STEPS,
            COMPLETE, FIXED, PROCESS, POOL}  # fmt: skip


class Recorder(Callback):  # type: ignore[misc]  # Ray has no types.
    """Writes events of trials, and deletes the checkpoints of those that nobody will go on from.

    Args:
        objectives: whose Pareto front keeps its checkpoints.
        gpus: of one trial.
    """

    def __init__(self, folder: Path, objectives: tuple[str, ...], gpus: float) -> None:
        self._folder, self._objectives, self._gpus = folder, objectives, gpus
        self._leaving: dict[str, RunDir] = {}  # Process → what it trained; Tune ends it after it told of it here.

    def begin(self) -> None:
        """A session of the search."""
        self._write({"event": "session"})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("started", trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        if result.get("step"):
            row = {key: value for key, value in result.items() if key not in _OF_TUNE and not key.startswith("time_")}
            pool = result.get(POOL, "")
            self._tell("row", trial, row=row, pool=pool)
            for fix, measures in result.get(FIXED, {}).items():
                self._tell("row", trial, fix=fix, row={"step": row["step"], **measures}, pool=pool)
                self._tell("finished", trial, fix=fix)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        complete = last.get(COMPLETE) or last.get("step", 0) >= last.get(STEPS, 1)
        self._tell("finished" if complete else "stopped", trial)
        self._leave(trial)
        self.prune()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("failed", trial, error=_cause(trial))
        self._leave(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for process in [process for process in self._leaving if not ray_compat.is_actor_alive(process)]:
            give_back(self._leaving.pop(process))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """What the budget ended is told nowhere else; then wait until nothing is held."""
        running = {trial.trial_id for trial in SearchState.of(self._folder).trials if trial.status == "running"}
        for trial in trials:
            if trial.trial_id in running and trial.status == "TERMINATED":
                self.on_trial_complete(0, trials, trial)
        end = time.monotonic() + _PATIENCE_SECONDS
        while self._leaving and time.monotonic() < end:
            self.on_step_end(0, [])
            time.sleep(0.1)
        for run in self._leaving.values():
            give_back(run)

    def prune(self) -> None:
        """Checkpoints stay where a trial may go on, or is on the front."""
        board = SearchState.of(self._folder)
        kept = {trial.name for trial in board.front(self._objectives)}
        for trial in board.trials:
            if trial.status in ("finished", "stopped") and trial.name not in kept:
                run = run_of(self._folder, trial)
                for part in (run.checkpoints, run.base, run.model):
                    with suppress(OSError):
                        remove_tree(part)

    def _leave(self, trial: Any) -> None:
        if process := (trial.last_result or {}).get(PROCESS):
            self._leaving[process] = RunDir(run_folder(self._folder / "trials", trial.config, trial.trial_id))

    def _tell(self, event: str, trial: Any, fix: str = "", **more: Any) -> None:
        values = dict(trial.config)
        name = run_folder(self._folder / "trials", values, trial.trial_id).name
        about = {"trial": trial.trial_id, "name": name, "values": values, "fix": fix}
        steps = (trial.last_result or {}).get(STEPS, 0)
        self._write({"event": event, **about, "steps": steps, "gpus": self._gpus, **more})

    def _write(self, event: dict[str, Any]) -> None:
        plain = json.loads(json.dumps({**event, "time": time.time()}, default=float))  # NumPy's numbers become floats.
        append_json_lines(self._folder / EVENTS, [plain], checked=True)


def _cause(trial: Any) -> str:
    """The last line of what ended it."""
    if not trial.error_file or not Path(trial.error_file).exists():
        return "unknown; Ray Tune kept no error"
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "unknown")
