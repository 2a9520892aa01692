"""A search: trials under Ray Tune, in a folder from which the same command continues after any failure.

Ray Tune keeps the list of trials and their status, each trial is a run that continues by its name, and `SearchState`
holds what was measured. A driver, a node or a trial may die at any time: finished trials are not repeated, and others
continue from their last checkpoints.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ray.tune.search.sample import Domain

from hbt_ray.config import without_secrets
from hbt_ray.errors import ConfigError, DamagedFile, HbtError, ResourceError, StorageError, redact
from hbt_ray.storage import is_unused, naming_storage_errors, storage_error, write_text
from hbt_ray.strict_yaml import read_yaml
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.record import check_validation
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.pbt import lineage_config, read_lineage
from hbt_ray.tune.recorder import EventRecorder
from hbt_ray.tune.search_state import SearchState, Trial, trial_run
from hbt_ray.tune.space import Space
from hbt_ray.tune.trainable import TrialFactory
from hbt_ray.tune.tuner import SessionLimits, make_tuner

_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Otherwise Ray Tune prints tables of its own,
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # writes results in three more formats,
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # and on Ctrl-C ends as if all trials were done.
}
_START_SECONDS = 7 * 24 * 3600.0
"""Longest wait of a trial's workers for resources, which other trials may hold: a week."""


class Search:
    """One search, which may already have begun.

    Args:
        name: module path or file of the space as the user gave it, for `search.yaml`.
        base: the configuration that the values of the space change. Its name and storage path give the search's folder.
    """

    def __init__(self, space: Space, name: str, base: TrainConfig, settings: TuneConfig) -> None:
        self.space, self.settings, self.folder = space, settings, _folder_of(base)
        self._user_base = base.absolute().model_dump(mode="json")
        self._trial_base = _base_of_trials(base)
        fields = self._trial_base.model_dump(mode="json")
        self._factory = TrialFactory(space, fields, self.folder / "trials", settings.segment, settings.posthoc)
        description = {
            "space": name,
            "varies": {
                key: domain if isinstance(domain, list) else domain.domain_str for key, domain in space.search.items()
            },
            # Without the keys that may change between two sessions.
            "settings": settings.model_dump(mode="json", exclude={"budget", "concurrent", "retries"}),
            "base": {key: value for key, value in fields.items() if key not in ("workers", "trackers")},
        }
        # By way of JSON, so that it equals what is read back from YAML.
        self._description: dict[str, Any] = without_secrets(json.loads(json.dumps(description, default=str)))
        self._examples = [self._factory.config(values, "0") for values in self._example_values()]
        self._check()
        self._check_folder()

    @property
    def state(self) -> SearchState:
        return SearchState.load(self.folder)

    @property
    def num_trials(self) -> int:
        lists = [values for values in self.space.search.values() if isinstance(values, list)]
        combinations = math.prod(map(len, lists)) if self.settings.algorithm == "grid" else 1
        num_trials = combinations * self.settings.samples * self.space.seeds
        return min(num_trials, self.settings.budget.trials or num_trials)

    def config(self, trial: Trial, name: str) -> TrainConfig:
        """The user's configuration with the values of a trial: it trains the same encoder, as a run beside the search.

        Args:
            name: the run is called SEARCH-name.
        """
        factory = TrialFactory(self.space, self._user_base, self.folder / "trials", self.settings.segment)
        if self.settings.algorithm == "pbt":
            lineage = read_lineage(trial_run(self.folder, trial).root)
            config = lineage_config(lineage, lambda values: factory.config(values, trial.trial_id))
        else:
            values = {key: value for key, value in trial.values.items() if not (trial.posthoc and key == "posthoc")}
            config = factory.config(values, trial.trial_id)
        return config.model_copy(update={"name": f"{self.folder.name}-{name}", "storage_path": str(self.folder.parent)})

    def max_concurrent(self, resources: Mapping[str, float]) -> int:
        """Number of trials that fit on a cluster with these resources at the same time."""
        workers, validation = self._trial_base.workers, self._trial_base.validation
        extra = {"CPU": validation.cpus, "GPU": float(validation.gpu)}
        needs = {name: workers.min_count * amount + extra.get(name, 0) for name, amount in workers.resources.items()}
        # 1e-9, because 0.3 / 0.1 is 2.999… in floating point.
        count = min(int(resources.get(name, 0) / need + 1e-9) for name, need in needs.items() if need)
        if count < 1:
            needed = ", ".join(f"{need:g} {name}" for name, need in needs.items())
            available = ", ".join(f"{resources.get(name, 0):g} {name}" for name in needs)
            raise ResourceError(
                f"a trial needs {needed}, and the cluster has {available}; lower workers.count or workers.cpus of the "
                "configuration, or add nodes"
            )
        return count

    def run(self, concurrent: int) -> SearchState:
        """Search to the end, or continue an earlier session. Needs a Ray session.

        Raises:
            ConfigError: the dev store cannot be used, or the folder belongs to another search.
            StorageError: the disk is full or cannot be written; the same command continues.
            HbtError: every trial failed; names the error of the last one.
        """
        self.open()
        for config in self._examples:
            check_validation(config)
        recorder = EventRecorder(self.folder, self.settings.objectives, self._gpus)
        recorder.start_session()
        SessionLimits(concurrent=concurrent, budget=self.settings.budget).save(self.folder)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # Failed trials and their errors are in the events.
        for name, value in _TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        attempts = {trial.trial_id: trial.attempts for trial in self.state.trials}
        with naming_storage_errors(self.folder, "the folder"):  # Ray Tune writes there as well.
            max_steps = max(config.optimiser.steps for config in self._examples)
            tuner = make_tuner(self.space, self.settings, self._factory, recorder, max_steps)
            try:
                tuner.fit()
            except Exception as error:  # On a full disk Ray Tune fails to read back the errors of its trials.
                if full := self._storage_failure(attempts):
                    raise full from error
                raise
            if full := self._storage_failure(attempts):
                raise full
        recorder.prune()
        state = self.state
        if state.trials and all(trial.status == "failed" for trial in state.trials):
            raise HbtError(f"every trial failed; the last one: {state.trials[-1].error}", code="TRIALS_FAILED")
        return state

    def _storage_failure(self, attempts: Mapping[str, int]) -> StorageError | None:
        """The error of a trial that failed in this session because the disk was full or not writable.

        Such a trial ends the session with this error instead of counting as a result: the next session starts it again.
        """
        for trial in self.state.trials:
            if trial.status == "failed" and trial.attempts > attempts.get(trial.trial_id, 0):
                run = trial_run(self.folder, trial)
                if full := storage_error(RuntimeError(trial.error), str(run.root), "the trial"):
                    return full
        return None

    @property
    def _gpus(self) -> float:
        workers = self._trial_base.workers
        return float(workers.max_count * workers.gpu + self._trial_base.validation.gpu)

    def _example_values(self) -> list[dict[str, Any]]:
        """Values to check configurations with: all combinations of the lists, with one draw from each domain."""
        random = np.random.RandomState(self.settings.seed)
        lists = {key: values for key, values in self.space.search.items() if isinstance(values, list)}
        drawn = {
            key: domain.sample(random_state=random)
            for key, domain in self.space.search.items()
            if isinstance(domain, Domain)
        }
        return [{**dict(zip(lists, choice, strict=True)), **drawn} for choice in itertools.product(*lists.values())]

    def _check(self) -> None:
        steps = [config.optimiser.steps for config in self._examples]
        budget, rungs = self.settings.budget, self.settings.rungs
        if budget.steps is not None and budget.steps < min(steps):
            raise ConfigError(
                f"budget.steps={budget.steps:,} is less than the {min(steps):,} steps of one trial; raise it, or lower "
                "optimiser.steps of the configuration",
                code="SMALL_BUDGET",
            )
        if self.settings.algorithm == "pbt":
            self._check_population()
        elif rungs and rungs.first >= max(steps):
            raise ConfigError(
                f"rungs.first={rungs.first} is not before the end of the trials at {max(steps):,} steps, so no trial "
                "would be stopped; lower it",
                code="LATE_RUNG",
            )

    def _check_population(self) -> None:
        if self.settings.samples * self.space.seeds < 2:
            raise ConfigError(
                "pbt needs a population of at least two trials; set samples to 4 or more", code="PBT_POPULATION"
            )
        if not self.space.drawn:
            raise ConfigError(
                "pbt changes values that are drawn from a domain, and the space has only lists; give a domain such as "
                "ray.tune.uniform(0, 1)",
                code="PBT_DOMAINS",
            )
        every = self._trial_base.validation.every or self._trial_base.checkpoints.every
        if (self.settings.segment or 0) % every:
            raise ConfigError(
                f"segment={self.settings.segment} is not a multiple of the {every} steps between validations, and only "
                "validated checkpoints can be compared; set a multiple",
                code="PBT_SEGMENT",
            )

    def open(self) -> None:
        """Write `search.yaml`, or check that the folder belongs to this search. The caller must hold its lock."""
        self._check_folder()
        path = self.folder / "search.yaml"
        if not path.exists():
            write_text(path, yaml.safe_dump(self._description, sort_keys=False, allow_unicode=True))

    def _check_folder(self) -> None:
        """Check that the folder is unused or holds this search.

        Raises:
            ConfigError: it holds another search or something else.
        """
        path = self.folder / "search.yaml"
        if not path.exists():
            if not is_unused(self.folder):
                raise ConfigError(
                    f"{self.folder} exists but is not a search; nothing was changed. Choose another name",
                    code="NOT_A_SEARCH",
                )
            return
        try:
            saved = read_yaml(path)
        except (OSError, ValueError) as error:
            raise DamagedFile(str(path), " ".join(str(error).split())[:200]) from None
        if not isinstance(saved, dict):
            raise DamagedFile(str(path), "not a mapping")
        for key, value in self._description.items():
            if saved.get(key) != value:
                raise ConfigError(
                    f"{self.folder} holds a search with another {_difference(key, saved.get(key), value)}; choose "
                    "another name, or restore that value",
                    code="OTHER_SEARCH",
                )


def _folder_of(base: TrainConfig) -> Path:
    root = base.run.root
    if not isinstance(root, Path):
        raise ConfigError(
            f"storage_path={redact(str(base.storage_path))}: a search needs a folder that all nodes see; runs and "
            "evaluations may be in an object store",
            code="STORAGE_URI",
        )
    return root


def _base_of_trials(base: TrainConfig) -> TrainConfig:
    """The configuration that the trials' values change.

    The tasks of a trial's stream reserve no CPUs, since the workers of the trials may hold all of them. Its workers
    wait up to a week for resources that other trials hold.
    """
    if not base.validation.store:
        raise ConfigError(
            "a search compares trials by their measures on a dev store; set validation.store", code="NO_DEV_STORE"
        )
    stream = base.stream.model_copy(update={"cpus_per_task": 0.0})
    workers = base.workers.model_copy(update={"start_seconds": max(base.workers.start_seconds, _START_SECONDS)})
    return base.model_copy(update={"stream": stream, "workers": workers}).absolute()


def _difference(key: str, saved: Any, current: Any) -> str:
    """The first nested key whose values differ, with both values."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in sorted(saved.keys() | current.keys()):
            if saved.get(name) != current.get(name):
                return _difference(f"{key}.{name}", saved.get(name), current.get(name))
    return f"{key} ({saved!r}, and now {current!r})"
