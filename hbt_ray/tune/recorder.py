"""The event recorder: a callback of Ray Tune in the driver that writes events of trials into the search's folder.

Ray Tune pickles it with its own state and restores it when a search continues, so it must not hold a console or a
connection to the cluster.
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
from hbt_ray.train.driver.resources import release_placement_group
from hbt_ray.tune.search_state import EVENTS, SearchState, trial_run
from hbt_ray.tune.trainable import ACTOR, COMPLETE, DEV_SET, STEPS, TRANSFORMED, trial_folder

_RELEASE_SECONDS = 30.0
"""Longest wait at the end of a search for the processes of its trials to end."""
_TUNE_FIELDS = {"timestamp", "done", "trial_id", "date", "pid", "hostname", "node_ip", "config", "checkpoint_dir_name",
                "training_iteration", "iterations_since_restore", "experiment_tag", "should_checkpoint", STEPS,
                COMPLETE, TRANSFORMED, ACTOR, DEV_SET}  # fmt: skip
"""Fields of a result that are not measures."""


class EventRecorder(Callback):  # type: ignore[misc]  # Ray has no types.
    """Writes events of trials, and deletes checkpoints that no trial will continue from.

    Args:
        objectives: objectives of the Pareto front, whose trials keep their checkpoints.
        gpus: GPUs that a trial holds while it runs.
    """

    def __init__(self, folder: Path, objectives: tuple[str, ...], gpus: float) -> None:
        self._folder, self._objectives, self._gpus = folder, objectives, gpus
        # Actor id → run of trials that ended: Ray Tune kills the actor after it has called this callback.
        self._ending: dict[str, RunDir] = {}

    def start_session(self) -> None:
        self._write({"event": "session"})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._write_trial("started", trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        if not result.get("step"):
            return
        row = {key: value for key, value in result.items() if key not in _TUNE_FIELDS and not key.startswith("time_")}
        dev_set = result.get(DEV_SET, "")
        self._write_trial("row", trial, row=row, dev_set=dev_set)
        for method, measures in result.get(TRANSFORMED, {}).items():
            self._write_trial("row", trial, method, row={"step": row["step"], **measures}, dev_set=dev_set)
            self._write_trial("finished", trial, method)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        # ASHA stops a trial at its last step, before the trial reports that it is complete.
        complete = last.get(COMPLETE) or last.get("step", 0) >= last.get(STEPS, 1)
        self._write_trial("finished" if complete else "stopped", trial)
        self._release_later(trial)
        self.prune()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._write_trial("failed", trial, error=_last_error_line(trial))
        self._release_later(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for actor in [actor for actor in self._ending if not ray_compat.is_actor_alive(actor)]:
            release_placement_group(self._ending.pop(actor))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Record trials that the budget ended, as Ray Tune calls nothing else for them; release all resources."""
        running = {trial.trial_id for trial in SearchState.load(self._folder).trials if trial.status == "running"}
        for trial in trials:
            if trial.trial_id in running and trial.status == "TERMINATED":
                self.on_trial_complete(0, trials, trial)
        deadline = time.monotonic() + _RELEASE_SECONDS
        while self._ending and time.monotonic() < deadline:
            self.on_step_end(0, [])
            time.sleep(0.1)
        for run in self._ending.values():
            release_placement_group(run)

    def prune(self) -> None:
        """Delete checkpoints and models of ended trials that are not on the Pareto front."""
        state = SearchState.load(self._folder)
        kept = {trial.name for trial in state.front(self._objectives)}
        for trial in state.trials:
            if trial.status in ("finished", "stopped") and trial.name not in kept:
                run = trial_run(self._folder, trial)
                for path in (run.checkpoints, run.base, run.model):
                    with suppress(OSError):
                        remove_tree(path)

    def _release_later(self, trial: Any) -> None:
        if actor := (trial.last_result or {}).get(ACTOR):
            self._ending[actor] = RunDir(trial_folder(self._folder / "trials", trial.config, trial.trial_id))

    def _write_trial(self, event: str, trial: Any, posthoc: str = "", **fields: Any) -> None:
        values = dict(trial.config)
        name = trial_folder(self._folder / "trials", values, trial.trial_id).name
        identity = {"trial": trial.trial_id, "name": name, "values": values, "posthoc": posthoc}
        steps = (trial.last_result or {}).get(STEPS, 0)
        self._write({"event": event, **identity, "steps": steps, "gpus": self._gpus, **fields})

    def _write(self, event: dict[str, Any]) -> None:
        # Dumped and read once more, so that numbers of NumPy become floats.
        plain = json.loads(json.dumps({**event, "time": time.time()}, default=float))
        append_json_lines(self._folder / EVENTS, [plain], checked=True)


def _last_error_line(trial: Any) -> str:
    if not trial.error_file or not Path(trial.error_file).exists():
        return "unknown; Ray Tune kept no error"
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "unknown")
