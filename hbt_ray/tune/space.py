"""Search spaces: the keys of a training configuration that a search varies, and the configuration for their values.

A space is a module, one of `tune_spaces/` or the user's own, with a `SPACE` and a docstring that says which question
it answers and what that costs. The library imports none by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ray.tune.search.sample import Domain

from hbt_ray.errors import ConfigError
from hbt_ray.train.config import TrainConfig

SEED = "seed"
"""The key under which repetitions differ. It becomes the seed of the initial weights and of dropout."""
Values = dict[str, Any]
"""Key → value."""


def _unchanged(values: Values, base: Values) -> Values:
    return values


@dataclass(frozen=True, eq=False)
class Space:
    """The keys that a search varies, and their values."""

    search: Mapping[str, Any]
    """Key such as `plan.alpha` → a list, of which a grid tries every value, or a domain of `ray.tune` (`uniform`,
    `loguniform`, `choice`, …), from which values are drawn."""
    seeds: int = 1
    """Number of runs of each choice, with different initial weights and dropout; the batches are the same."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TuneConfig` that are not the defaults; the command line can change them."""
    configure: Callable[[Values, Values], Values] = _unchanged
    """Called with the chosen values (without the seed) and the fields of the base `TrainConfig`; returns keys of
    `TrainConfig` with their values. For choices that stand for several keys or determine others."""
    batch_sizes: bool = False
    """Whether trials train to a target at several batch sizes, so that a critical batch size can be fitted."""

    def __post_init__(self) -> None:
        if not self.search:
            raise ConfigError("SPACE.search is empty; give it a key and values to try", code="INVALID_SPACE")
        for key, domain in self.search.items():
            if not isinstance(domain, Domain) and not (isinstance(domain, list) and domain):
                raise ConfigError(
                    f"SPACE.search[{key!r}] is {domain!r}; give a list of values, or a domain such as "
                    "ray.tune.uniform(0, 1)",
                    code="INVALID_SPACE",
                )

    @property
    def varied(self) -> str:
        """The first key, which is on the horizontal axis of the report."""
        return next(iter(self.search))

    @property
    def drawn(self) -> list[str]:
        """Keys with a domain; the others have lists."""
        return [key for key, domain in self.search.items() if isinstance(domain, Domain)]

    def config(self, base: Mapping[str, Any], values: Mapping[str, Any], name: str, storage: Path) -> TrainConfig:
        chosen = dict(values)
        seed = chosen.pop(SEED, None)
        keys = dict(self.configure(chosen, dict(base)))
        if seed is not None:
            keys |= {"model.seed": seed, "optimiser.seed": seed}
        fields = deepcopy(dict(base))
        for key, value in keys.items():
            _set_key(fields, key, value)
        text = ", ".join(f"{key}={value}" for key, value in values.items())
        return TrainConfig.make({**fields, "name": name, "storage_path": str(storage)}, f"the space, at {text}")


def _set_key(fields: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = fields
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}  # A value that is unset or not a mapping is replaced by one.
        node = node[parent]
    node[last] = value


def format_value(value: Any) -> str:
    """A value of a trial, for tables and folder names."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def load_space(name: str) -> tuple[Space, str]:
    """Load a space and its docstring from a module path such as `tune_spaces.mixing_ratio`, or from a file."""
    module = _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise ConfigError(f"{name}: has no SPACE = Space(…); see tune_spaces/mixing_ratio.py", code="INVALID_SPACE")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(module)  # The file need not exist on the nodes of the trials.
    return space, (module.__doc__ or "").strip()


def _import_module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # The space exists, and a module that it imports does not.
        raise ConfigError(
            f"there is no space {name!r}; give a module such as tune_spaces.mixing_ratio "
            f"({', '.join(_known_spaces())}), or the path of a Python file",
            code="NO_SPACE",
        ) from None


def _known_spaces() -> list[str]:
    spec = importlib.util.find_spec("tune_spaces")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(path.stem for folder in folders for path in Path(folder).glob("[!_]*.py"))


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a space is a module path or a Python file", code="NO_SPACE")
    name = f"hbt_space_{path.stem}"  # A prefix, so that it hides no other module.
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is not a Python file; give a file that ends in .py", code="NO_SPACE")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
