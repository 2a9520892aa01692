"""The search: trials under Ray Tune, in a folder from which the same command goes on after anything.

Ray Tune keeps which trials there are and where they stand; each trial is a run that continues by its name; the board
says what was found. So a driver, a node or a trial may die at any time: finished trials are not repeated, others go on
from their last checkpoints.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ray.tune.search.sample import Domain

from hbt_ray.config import without_secrets
from hbt_ray.errors import ConfigError, DamagedFile, HbtError, ResourceError, StorageError
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import is_unused, naming_storage_errors, storage_error, write_text
from hbt_ray.strict_yaml import read_yaml
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.run_status import check
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.limits import Limits
from hbt_ray.tune.pbt import lineage_of, with_lineage
from hbt_ray.tune.recorder import Recorder
from hbt_ray.tune.space import Space
from hbt_ray.tune.state import SearchState, Trial
from hbt_ray.tune.trial import TrialSetting
from hbt_ray.tune.tuner import make_tuner

_EVER = 1 << 60
_QUIETLY = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Ray Tune would draw tables of its own,
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # keep rows in three more forms,
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # and end on Ctrl-C as if all were done.
}
_LONG_SECONDS = 7 * 24 * 3600.0


class Search:
    """One search, which need not have begun.

    Args:
        space: and under which name it was asked for, for `search.yaml`.
        base: what the values of the space change. Its name and storage path are those of the search's folder.

    Raises:
        ConfigError: the folder holds another search, no trial could be trained, or the budget is too small for one.
    """

    def __init__(self, space: Space, name: str, base: TrainConfig, settings: TuneConfig) -> None:
        self.space, self.settings, self.folder = space, settings, base.run.root
        self._asked = base.absolute().model_dump(mode="json")
        self._base = self._for_trials(base)
        self._setting = TrialSetting(space, self._base, self.folder / "trials", settings.segment, settings.posthoc)
        self._about = {
            "space": name,
            "varies": {key: _told(domain) for key, domain in space.search.items()},
            "settings": settings.model_dump(mode="json", exclude={"budget", "concurrent", "retries"}),
            "base": {key: value for key, value in self._base.items() if key not in ("workers", "trackers")},
        }
        self._check()
        self._check_folder()

    @property
    def board(self) -> SearchState:
        return SearchState.of(self.folder)

    @property
    def num_trials(self) -> int:
        """That it has when nothing is stopped."""
        lists = [values for values in self.space.search.values() if isinstance(values, list)]
        combinations = 1 if self.settings.algorithm != "grid" else _product(map(len, lists))
        return min(combinations * self.settings.samples * self.space.seeds, self.settings.budget.trials or _EVER)

    def config(self, trial: Trial, name: str) -> TrainConfig:
        """What trains a trial's encoder again as a run beside the search, with what its own configuration was given
        for the search left out."""
        setting = TrialSetting(self.space, self._asked, self.folder / "trials", self.settings.segment)
        values = {key: value for key, value in trial.values.items() if not (trial.fix and key == "posthoc")}
        if self.settings.algorithm == "pbt":
            run = RunDir(self.folder / "trials" / trial.name)
            made = with_lineage(setting, lineage_of(run), trial.trial_id)
        else:
            made = setting.config(values, trial.trial_id)
        return made.model_copy(update={"name": f"{self.folder.name}-{name}", "storage_path": self.folder.parent})

    def room(self, have: Mapping[str, float]) -> int:
        """Trials that resources of a cluster hold at a time.

        Raises:
            ResourceError: not even one.
        """
        base = TrainConfig.model_validate(self._base)
        dev = base.validation
        beside = {"CPU": dev.cpus, "GPU": float(dev.gpu)}
        needs = {name: base.workers.least * each + beside.get(name, 0) for name, each in base.workers.each.items()}
        room = min(int(have.get(name, 0) / need + 1e-9) for name, need in needs.items() if need)
        if room < 1:
            wanted = ", ".join(f"{need:g} {name}" for name, need in needs.items())
            there = ", ".join(f"{have.get(name, 0):g} {name}" for name in needs)
            raise ResourceError(
                f"a trial needs {wanted}, and the cluster has {there}; lower workers.count or workers.cpus of the "
                "configuration, or add nodes"
            )
        return room

    def run(self, concurrent: int) -> SearchState:
        """Search to the end, or go on with it. Needs a Ray session.

        Raises:
            ConfigError: the dev store cannot be used, or the folder is of another search.
            StorageError: the disk is full or cannot be written; the same command goes on.
            HbtError: every trial failed; with the cause of the last.
        """
        self.open()
        for values in self._some():
            check(self._setting.config(values, "0"))
        recorder = Recorder(self.folder, self.settings.objectives, self._gpus)
        recorder.begin()
        Limits(concurrent=concurrent, budget=self.settings.budget).save(self.folder)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # The board says what failed, and why.
        for name, value in _QUIETLY.items():
            os.environ.setdefault(name, value)
        attempts = {trial.trial_id: trial.attempts for trial in self.board.trials}
        with naming_storage_errors(self.folder, "the folder"):  # Ray Tune writes there as well.
            tuner = make_tuner(self.space, self.settings, self._setting, recorder, self._most_steps)
            try:
                tuner.fit()
            except Exception as error:  # Ray Tune cannot read errors of trials back that it could not write.
                if full := self._storage_failure(attempts):
                    raise full from error
                raise
            if full := self._storage_failure(attempts):
                raise full
        recorder.prune()
        board = self.board
        if board.trials and all(trial.status == "failed" for trial in board.trials):
            raise HbtError(f"every trial failed; the last one: {board.trials[-1].error}")
        return board

    def _storage_failure(self, attempts: Mapping[str, int]) -> StorageError | None:
        """The error of a trial that failed in this session because the disk was full or could not be written.

        Args:
            attempts: those of each trial before the session.
        """
        for trial in self.board.trials:
            if trial.status == "failed" and trial.attempts > attempts.get(trial.trial_id, 0):
                place = self.folder / "trials" / trial.name
                if full := storage_error(RuntimeError(trial.error), place, "the trial"):
                    return full
        return None

    @property
    def _gpus(self) -> float:
        base = TrainConfig.model_validate(self._base)
        return float(base.workers.most * base.workers.gpu + base.validation.gpu)

    @property
    def _most_steps(self) -> int:
        return max(self._setting.config(values, "0").optimiser.steps for values in self._some())

    def _some(self) -> list[dict[str, Any]]:
        """Values to try a configuration with: every combination of the lists, with a draw from the domains."""
        import numpy as np

        state = np.random.RandomState(self.settings.seed)
        lists = {key: values for key, values in self.space.search.items() if isinstance(values, list)}
        drawn = {
            key: domain.sample(random_state=state)
            for key, domain in self.space.search.items()
            if isinstance(domain, Domain)
        }
        return [{**dict(zip(lists, choice, strict=True)), **drawn} for choice in itertools.product(*lists.values())]

    @staticmethod
    def _for_trials(base: TrainConfig) -> dict[str, Any]:
        """Trials reserve their CPUs first, so the tasks of their streams ask for none; and they wait for each other."""
        if not base.validation.store:
            raise ConfigError(
                "a search compares trials by what they are worth on a dev store; set validation.store to one"
            )
        stream = base.stream.model_copy(update={"cpus_per_task": 0.0})
        workers = base.workers.model_copy(update={"start_seconds": max(base.workers.start_seconds, _LONG_SECONDS)})
        return base.model_copy(update={"stream": stream, "workers": workers}).absolute().model_dump(mode="json")

    def _check(self) -> None:
        """What can be wrong with trials shows before one starts."""
        steps = [self._setting.config(values, "0").optimiser.steps for values in self._some()]
        budget = self.settings.budget
        if budget.steps is not None and budget.steps < min(steps):
            raise ConfigError(
                f"budget.steps={budget.steps:,} does not even train one trial of {min(steps):,}; allow more, or lower "
                "optimiser.steps of the configuration"
            )
        if self.settings.algorithm == "pbt":
            self._check_population()
        elif self.settings.rungs and self.settings.rungs.first >= max(steps):
            raise ConfigError(
                f"rungs.first={self.settings.rungs.first} is not before the end of trials of {max(steps):,} steps, so "
                "none would be stopped; lower it"
            )

    def _check_population(self) -> None:
        if self.settings.samples * self.space.seeds < 2:
            raise ConfigError("a population of one has nobody to learn from; set samples to 4 or more")
        if not self.space.drawn:
            raise ConfigError("pbt changes what is drawn from a domain, and the space has lists only; see tune_spaces")
        base = TrainConfig.model_validate(self._base)
        every = base.validation.every or base.checkpoints.every
        if (self.settings.segment or 0) % every:
            raise ConfigError(
                f"segment={self.settings.segment} is no multiple of the {every} steps between validations, and only "
                "validated checkpoints can be compared"
            )

    def _check_folder(self) -> None:
        """Raises: ConfigError if the folder is of another search or of something else."""
        path = self.folder / "search.yaml"
        about = self._description()
        if path.exists():
            before = _read(path)
            for key in about:
                if before.get(key) != about[key]:
                    raise ConfigError(
                        f"{self.folder} holds a search with another {_difference(key, before.get(key), about[key])}; "
                        "give this one another name, or restore that"
                    )
            return
        if not is_unused(self.folder):
            raise ConfigError(f"{self.folder} exists but is not a search; nothing was changed. Give another name")

    def open(self) -> None:
        """Begin the folder, or see that it is this search's. Only the command that holds the search's lock may call it.

        Raises:
            ConfigError: another search was begun there since this one was made.
            StorageError: the folder cannot be written.
        """
        self._check_folder()
        path = self.folder / "search.yaml"
        if not path.exists():
            write_text(path, yaml.safe_dump(self._description(), sort_keys=False, allow_unicode=True))

    def _description(self) -> dict[str, Any]:
        """What `search.yaml` holds."""
        description: dict[str, Any] = without_secrets(json.loads(json.dumps(self._about, default=str)))
        return description


def _read(path: Path) -> dict[str, Any]:
    """Raises: DamagedFile if it is not what `Search.open` wrote."""
    try:
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        raise DamagedFile(str(path), " ".join(str(error).split())[:200]) from None
    if not isinstance(values, dict):
        raise DamagedFile(str(path), "not a mapping")
    return values


def _difference(key: str, before: Any, now: Any) -> str:
    """Down to the first value that is another one."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                return _difference(f"{key}.{name}", before.get(name), now.get(name))
    return f"{key} ({before!r}, and now {now!r})"


def _told(domain: Any) -> Any:
    return domain if isinstance(domain, list) else domain.domain_str


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
