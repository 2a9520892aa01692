"""Configuration: frozen typed models, read from YAML, changed by `key=value` on the command line.

Every part of the system owns its own model beside its code (plan settings beside the plan, and so on); this module
holds only what they share. Unknown keys are errors that name the nearest valid key.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from hbt_ray.errors import ConfigError
from hbt_ray.languages import normalise


class Config(BaseModel):
    """Base of every configuration: frozen, strict about its keys, its field docs are the docstrings below them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f"did you mean {near[0]!r}? " if near else ""
                    raise ValueError(f"unknown key {key!r}; {hint}Known: {', '.join(cls.model_fields)}")
        return values

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Read `path` (YAML, may be absent), apply overrides such as `plan.alpha=0.3`, validate.

        Raises:
            ConfigError: no such file, no valid YAML, an unknown key or a value out of range; all problems are listed.
        """
        origin = str(path) if path else "the command line"
        return cls.make(_read(Path(path)) if path else {}, origin, overrides)

    @classmethod
    def make(cls, values: dict[str, Any], origin: str, overrides: Sequence[str] = ()) -> Self:
        """The same from plain values; `origin` names their source in errors."""
        for override in overrides:
            _apply(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{origin}: " + "; ".join(map(_describe, error.errors()))) from None

    def to_yaml(self) -> str:
        """The exact configuration, so that `load` gives an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _language(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError(f"{value} is no language: YAML reads a bare no or on as a truth value; write 'no' in quotes")
    return normalise(str(value))


Language = Annotated[str, BeforeValidator(_language)]
"""A BCP-47 tag in canonical spelling."""


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML configuration") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, not keys and values")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in nested values; list entries are named by their number."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"{override!r} is no override; write key=value, for example plan.alpha=0.3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{override!r}: {text!r} is no valid YAML value; quote it") from None
    *parents, last = key.split(".")
    node: Any = values
    for name in parents:
        if isinstance(node, dict):
            # What is not there yet, or null as in a run's own config.yaml, is begun here.
            node[name] = {} if node.get(name) is None else node[name]
            node = node[name]
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            raise ConfigError(f"{override!r}: there is nothing called {name!r} to set a key in")
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    else:
        raise ConfigError(f"{override!r}: cannot set {last!r} there; its parent holds {node!r}")


def _describe(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    got = "" if isinstance(error["input"], dict) or error["type"] == "missing" else f" (got {error['input']!r})"
    return f"{where}: {message}{got}" if where else f"{message}{got}"
