"""How Ray Tune is told of a search: what it draws from, who decides what goes on, where it remembers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hbt_ray.errors import ConfigError, DamagedFile
from hbt_ray.tune.config import TuneConfig, mode
from hbt_ray.tune.limits import Limits, Spent, Variants
from hbt_ray.tune.recorder import Recorder
from hbt_ray.tune.space import SEED, Space
from hbt_ray.tune.trainable import run_trial
from hbt_ray.tune.trial import TrialSetting

_FOLDER = "tune"
_KEPT = 4
"""Checkpoints of a population's member, for others to take over."""


def make_tuner(space: Space, settings: TuneConfig, setting: TrialSetting, recorder: Recorder, steps: int) -> Any:
    """Ray Tune's, which goes on where one was in the search's folder.

    Args:
        steps: of the longest trial.
    """
    from ray import tune

    # Its training reserves what it needs by itself; Tune wants some resource, and this one there is enough of.
    trainable = tune.with_resources(partial(run_trial, setting=setting), {"memory": 1 << 20})
    folder = setting.folder.parent
    path = str(folder / _FOLDER)
    if tune.Tuner.can_restore(path):
        try:
            return tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True, resume_errored=True)
        except Exception as error:  # Whatever unpickling a damaged file raises.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DamagedFile(str(folder), f"Ray Tune cannot read its state in {_FOLDER}: {reason}") from error
    by_optuna, most = settings.algorithm == "optuna", settings.budget.trials or settings.samples
    return tune.Tuner(
        trainable,
        param_space=_params(space, settings),
        tune_config=tune.TuneConfig(
            num_samples=min(settings.samples, most) if by_optuna else settings.samples,
            max_concurrent_trials=Limits.of(folder).concurrent if by_optuna else None,
            search_alg=_optuna(settings) if by_optuna else _variants(settings, folder),
            scheduler=_scheduler(space, settings, steps),
            reuse_actors=False,
            **({} if by_optuna else _deciding(settings)),  # Optuna has several.
        ),
        run_config=tune.RunConfig(
            name=_FOLDER,
            storage_path=str(folder),
            callbacks=[recorder],
            stop=Spent(folder),
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT),
            verbose=0,
        ),
    )


def _params(space: Space, settings: TuneConfig) -> dict[str, Any]:
    """A grid tries all of a list, with all seeds; what draws, draws from lists as well."""
    from ray import tune

    draws = settings.algorithm in ("random", "optuna")
    listed = tune.choice if draws else tune.grid_search
    params = {key: listed(values) if isinstance(values, list) else values for key, values in space.search.items()}
    if space.seeds > 1:
        seeds = list(range(space.seeds))
        params[SEED] = tune.choice(seeds) if settings.algorithm == "optuna" else tune.grid_search(seeds)
    return params


def _variants(settings: TuneConfig, folder: Path) -> Any:
    # A population trains side by side: who finds no room waits until another's segment ends.
    return Variants(folder, together=settings.algorithm == "pbt", random_state=settings.seed)


def _optuna(settings: TuneConfig) -> Any:
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise ConfigError(
            "algorithm=optuna needs the package optuna; `pip install 'hbt-ray[optuna]'` brings it"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = list(settings.objectives)
    return OptunaSearch(
        metric=objectives, mode=[mode(name) for name in objectives], sampler=optuna.samplers.TPESampler(settings.seed)
    )


def _scheduler(space: Space, settings: TuneConfig, steps: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    if settings.algorithm == "pbt":
        return PopulationBasedTraining(
            time_attr="step",
            perturbation_interval=settings.segment,
            hyperparam_mutations={key: space.search[key] for key in space.drawn},
            quantile_fraction=0.5 if settings.samples < 8 else 0.25,
            require_attrs=False,
        )
    if settings.rungs:
        return ASHAScheduler(
            time_attr="step",
            grace_period=settings.rungs.first,
            reduction_factor=settings.rungs.reduction,
            max_t=steps,
            **(_deciding(settings) if settings.algorithm == "optuna" else {}),
        )
    return FIFOScheduler()


def _deciding(settings: TuneConfig) -> dict[str, str]:
    return {"metric": settings.objectives[0], "mode": mode(settings.objectives[0])}
