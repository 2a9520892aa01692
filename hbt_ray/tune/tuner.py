"""Ray Tune's tuner for a search: search algorithm, scheduler, budget, and restoring an earlier session.

Ray Tune restores its stopper and its search algorithm as they were when the search began. The command may change the
number of concurrent trials and the budget between sessions, so both read these limits from the search's folder.
"""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Stopper
from ray.tune.search import BasicVariantGenerator

from hbt_ray import ray_compat
from hbt_ray.config import Config
from hbt_ray.errors import ConfigError
from hbt_ray.storage import read_checked_json, remove_tree, write_checked_json
from hbt_ray.tune.config import LOWER_IS_BETTER, SearchBudget, TuneConfig
from hbt_ray.tune.recorder import EventRecorder
from hbt_ray.tune.search_state import EVENTS, SearchState
from hbt_ray.tune.space import SEED, Space
from hbt_ray.tune.trainable import TrialFactory, run_trial

logger = logging.getLogger(__name__)

TUNE_FOLDER = "tune"
"""Folder of Ray Tune's own state, inside the search's folder."""
_KEPT_CHECKPOINTS = 4
"""Checkpoints of each member of a population that others can take over."""


class SessionLimits(Config):
    """Limits of the running session of a search, in SEARCH/limits.json."""

    concurrent: int
    """Trials that run at the same time."""
    budget: SearchBudget = SearchBudget()

    @classmethod
    def read(cls, folder: Path) -> SessionLimits:
        """Read the limits. A damaged file is an error, as a changed digit would let a search exceed its budget."""
        return cls.model_validate(read_checked_json(folder / "limits.json"))

    def save(self, folder: Path) -> None:
        write_checked_json(folder / "limits.json", self.model_dump(mode="json"))


class LimitedVariantGenerator(BasicVariantGenerator):  # type: ignore[misc]  # Ray has no types.
    """Trials of a grid or of random draws, as far as the session's limits allow.

    Args:
        together: start all trials at once, as far as the cluster has room.
    """

    def __init__(self, folder: Path, *, together: bool, **options: Any) -> None:
        super().__init__(**options)
        ray_compat.use_stable_trial_ids(self)
        self._folder, self._together, self._num_started = folder, together, 0

    def next_trial(self) -> Any:
        """The next trial to start, or None if there is none now."""
        self.max_concurrent = 0 if self._together else SessionLimits.read(self._folder).concurrent
        trial = super().next_trial()
        self._num_started += trial is not None
        return trial

    def is_finished(self) -> bool:
        # The budget may have changed since Ray Tune restored this object, so it is read again.
        max_trials = SessionLimits.read(self._folder).budget.trials
        return super().is_finished() or (max_trials is not None and self._num_started >= max_trials)


class BudgetStopper(Stopper):  # type: ignore[misc]
    """Ends the search when its budget is exhausted. `LimitedVariantGenerator` limits the number of trials."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._size, self._state = folder, -1, SearchState([])

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        # Ray Tune calls this in every turn of its loop, so the events are only read again if the file has grown.
        size = (self._folder / EVENTS).stat().st_size
        if size != self._size:
            self._size, self._state = size, SearchState.load(self._folder)
        return bool(exhausted_budget(self._state, SessionLimits.read(self._folder).budget, time.time()))


def exhausted_budget(state: SearchState, budget: SearchBudget, now: float) -> str:
    """A sentence that says which part of the budget is used up; empty if none is."""
    hours = (state.seconds + max(0.0, now - state.last)) / 3600 if state.last else 0.0
    for used, allowed, unit in (
        (state.steps, budget.steps, "steps"),
        (hours, budget.hours, "hours"),
        (state.gpu_hours(now), budget.gpu_hours, "GPU hours"),
    ):
        if allowed is not None and used >= allowed:
            return f"{used:,.4g} of {allowed:,.4g} {unit} are used"
    return ""


def make_tuner(space: Space, settings: TuneConfig, factory: TrialFactory, recorder: EventRecorder, steps: int) -> Any:
    """A `ray.tune.Tuner`, which continues the earlier session in the search's folder if there is one."""
    from ray import tune

    # Ray Train reserves the resources of a trial. Ray Tune requires some resource, and this one is never scarce.
    trainable = tune.with_resources(partial(run_trial, factory=factory), {"memory": 1 << 20})
    folder = factory.folder.parent
    path = str(folder / TUNE_FOLDER)
    if tune.Tuner.can_restore(path):
        if _is_whole(Path(path)):
            return tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True, resume_errored=True)
        logger.warning("%s: Ray Tune's state is damaged; its trials start again and continue their runs", path)
        remove_tree(Path(path))
    # All members of a population start together: one without room waits until the segment of another ends.
    variants = LimitedVariantGenerator(folder, together=settings.algorithm == "pbt", random_state=settings.seed)
    use_optuna, max_trials = settings.algorithm == "optuna", settings.budget.trials or settings.samples
    return tune.Tuner(
        trainable,
        param_space=_param_space(space, settings),
        tune_config=tune.TuneConfig(
            num_samples=min(settings.samples, max_trials) if use_optuna else settings.samples,
            max_concurrent_trials=SessionLimits.read(folder).concurrent if use_optuna else None,
            search_alg=_optuna_search(settings) if use_optuna else variants,
            scheduler=_scheduler(space, settings, steps),
            # A stopped trial must lose its process, which ends its training thread and Ray Train's actors.
            reuse_actors=False,
            **({} if use_optuna else _metric(settings)),  # Optuna is given all objectives.
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(folder),
            callbacks=[recorder],
            stop=BudgetStopper(folder),
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
            verbose=0,
        ),
    )


def _is_whole(folder: Path) -> bool:
    """Whether Ray Tune's state can be read. A full disk cuts its files short.

    Ray would restore the readable part of them, and trials without values.
    """
    states = set(folder.glob("experiment_state-*.json"))
    try:
        for path in folder.glob("[!.]*.*"):
            if path.is_file():
                (json if path in states else cloudpickle).loads(path.read_bytes())
    except ImportError:  # The search's algorithm is not installed here; its state may be whole.
        return True
    except Exception:  # Unpickling a damaged file can raise anything.
        return False
    return bool(states)


def _param_space(space: Space, settings: TuneConfig) -> dict[str, Any]:
    """Ray Tune's search space. A grid tries all values of a list; other algorithms draw from it."""
    from ray import tune

    draws = settings.algorithm in ("random", "optuna")
    listed = tune.choice if draws else tune.grid_search
    params = {key: listed(values) if isinstance(values, list) else values for key, values in space.search.items()}
    if space.seeds > 1:
        seeds = list(range(space.seeds))  # OptunaSearch rejects grid searches, so it draws seeds.
        params[SEED] = tune.choice(seeds) if settings.algorithm == "optuna" else tune.grid_search(seeds)
    return params


def _optuna_search(settings: TuneConfig) -> Any:
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise ConfigError(
            "algorithm=optuna needs the package optuna; install it with `pip install 'hbt-ray[optuna]'`",
            code="MISSING_PACKAGE",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = list(settings.objectives)
    sampler = optuna.samplers.TPESampler(settings.seed)
    return OptunaSearch(metric=objectives, mode=[_mode(name) for name in objectives], sampler=sampler)


def _scheduler(space: Space, settings: TuneConfig, steps: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    if settings.algorithm == "pbt":
        return PopulationBasedTraining(
            time_attr="step",
            perturbation_interval=settings.segment,
            hyperparam_mutations={key: space.search[key] for key in space.drawn},
            # A quarter of a small population is one or two trials, too few to replace at a time.
            quantile_fraction=0.5 if settings.samples < 8 else 0.25,
            require_attrs=False,
        )
    if settings.rungs:
        return ASHAScheduler(
            time_attr="step",
            grace_period=settings.rungs.first,
            reduction_factor=settings.rungs.reduction,
            max_t=steps,
            **(_metric(settings) if settings.algorithm == "optuna" else {}),
        )
    return FIFOScheduler()


def _metric(settings: TuneConfig) -> dict[str, str]:
    return {"metric": settings.objectives[0], "mode": _mode(settings.objectives[0])}


def _mode(objective: str) -> str:
    return "min" if objective in LOWER_IS_BETTER else "max"
