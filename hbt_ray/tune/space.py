"""The space: which keys of a training configuration a search varies, and how values become a configuration.

A space is a module, of `tune_spaces/` or of one's own, with a docstring that says which question it answers and what
that costs, and a `SPACE`. The library never imports one by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ray.tune.search.sample import Domain

from hbt_ray.errors import ConfigError
from hbt_ray.train.config import TrainConfig

SEED = "seed"
"""The key under which repetitions differ; it becomes the seed of the initial weights and of dropout."""
Values = dict[str, Any]
"""Key → value of one trial, as the search chose them."""


def as_they_are(values: Values, base: Values) -> Values:
    return values


@dataclass(frozen=True, eq=False)
class Space:
    """What is varied."""

    search: Mapping[str, Any]
    """Key such as `plan.alpha` → what it may be: a list, all of which is tried, or a domain of `ray.tune`
    (`uniform`, `loguniform`, `choice`, …), which is drawn from."""
    seeds: int = 1
    """How often each choice is repeated, with other initial weights and dropout; the batches are the same."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `TuneConfig`, as far as they are not its defaults; the command line may change them."""
    configure: Callable[[Values, Values], Values] = as_they_are
    """Chosen values, and the fields of the base `TrainConfig` → keys of `TrainConfig` and theirs: for choices that
    stand for several keys, or have others follow from them. The seed is not among them."""
    across: str = ""
    """The key over which the report draws objectives; by default the first."""
    batch_sizes: bool = False
    """The trials train to a target at several batch sizes, so a critical batch size can be fitted."""

    def __post_init__(self) -> None:
        if not self.search:
            raise ConfigError("a space has to vary something; give SPACE.search a key and its values")
        for key, domain in self.search.items():
            if not isinstance(domain, Domain) and not (isinstance(domain, list) and domain):
                raise ConfigError(
                    f"SPACE.search[{key!r}] is {domain!r}; give a list of values, or a domain such as "
                    "ray.tune.uniform(0, 1)"
                )

    @property
    def varied(self) -> str:
        """What the report draws over."""
        return self.across or next(iter(self.search))

    @property
    def drawn(self) -> list[str]:
        """Keys with a domain; the others are lists."""
        return [key for key, domain in self.search.items() if isinstance(domain, Domain)]

    def config(self, base: Mapping[str, Any], values: Mapping[str, Any], name: str, storage: Path) -> TrainConfig:
        """The configuration of a trial.

        Args:
            base: the fields of a `TrainConfig`, which the values change.

        Raises:
            ConfigError: the space gives a key that the configuration does not know, or a value out of range.
        """
        chosen = dict(values)
        seed = chosen.pop(SEED, None)
        keys = dict(self.configure(chosen, dict(base)))
        if seed is not None:
            keys |= {"model.seed": seed, "optimiser.seed": seed}
        fields = _copied(dict(base))
        for key, value in keys.items():
            _put(fields, key, value)
        told = ", ".join(f"{key}={value}" for key, value in values.items())
        return TrainConfig.make({**fields, "name": name, "storage_path": str(storage)}, f"the space, at {told}")


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _put(fields: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = fields
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}  # What was unset, or a value of another form, makes room for the keys below it.
        node = node[parent]
    node[last] = value


def load_space(name: str) -> tuple[Space, str]:
    """A module path such as `tune_spaces.mixing_ratio`, or a file → the space, and its docstring.

    Raises:
        ConfigError: there is no such module or file, or it has no `SPACE`.
    """
    module = _of_file(Path(name)) if name.endswith(".py") else _of_module(name)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise ConfigError(f"{name}: has no SPACE = Space(…); see tune_spaces/mixing_ratio.py")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(module)  # Trials run where the file may not be.
    return space, (module.__doc__ or "").strip()


def _of_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # The space is there, and something that it imports is not.
        raise ConfigError(
            f"no space is called {name!r}; give a module such as tune_spaces.mixing_ratio ({', '.join(_known())}), or "
            "a file of your own that ends in .py"
        ) from None


def _known() -> list[str]:
    found = importlib.util.find_spec("tune_spaces")
    folders = list(found.submodule_search_locations or ()) if found else []
    return sorted(path.stem for folder in folders for path in Path(folder).glob("[!_]*.py"))


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a space is a module path or a Python file")
    name = f"hbt_space_{path.stem}"  # Not what another module may be called.
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ConfigError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module
