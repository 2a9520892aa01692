"""Configuration: frozen typed models, read from YAML, changed by `key=value` on the command line.

Each part of the system has its model beside its code; this module has their base class. Unknown keys are errors that
name the nearest valid key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from hbt_ray.errors import ConfigError, redact
from hbt_ray.languages.tags import normalise_tag
from hbt_ray.storage import AnyPath, as_path
from hbt_ray.strict_yaml import MAX_DEPTH, parse_yaml, read_yaml

_T = TypeVar("_T")
_MAX_SHOWN = 200
"""Characters of a value in an error."""
_MAX_PROBLEMS = 10


class Config(BaseModel):
    """Base of every configuration: frozen, strict about its keys, with the docstrings below fields as their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    renamed_keys: ClassVar[dict[str, str]] = {}
    """Former name of a key → its name now, for the error that a former name gets."""

    @model_validator(mode="before")
    @classmethod
    def _name_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key in cls.renamed_keys:
                    raise ValueError(f"the key {key} is now called {cls.renamed_keys[key]}")
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key)[:_MAX_SHOWN], cls.model_fields, n=1)
                    hint = f"did you mean {near[0]!r}? " if near else ""
                    raise ValueError(f"unknown key {_shown(key)}; {hint}Known: {', '.join(cls.model_fields)}")
        return values

    @model_validator(mode="after")
    def _refuse_unusable_values(self) -> Self:
        for name, value in self:
            for problem in _unusable(value):
                raise ValueError(f"{name} holds {problem}")
        return self

    @classmethod
    def load(
        cls,
        path: str | AnyPath | None = None,
        overrides: Sequence[str] = (),
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> Self:
        """Read a YAML file if there is one, apply overrides such as `plan.alpha=0.3`, validate.

        Args:
            defaults: values of top-level keys that the file does not have.

        Raises:
            ConfigError: no such file, no valid YAML, an unknown key or a value out of range; all problems are listed.
        """
        origin = str(path) if path else "the command line"
        values = _read(as_path(path)) if path else {}
        return cls.make({**defaults, **values}, origin, overrides)

    @classmethod
    def make(cls, values: dict[str, Any], origin: str, overrides: Sequence[str] = ()) -> Self:
        """Apply overrides to plain values and validate them; `origin` names their source in errors."""
        for override in overrides:
            _apply(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = error.errors()
            more = len(problems) - _MAX_PROBLEMS
            shown = "; ".join(map(_describe, problems[:_MAX_PROBLEMS])) + (f"; and {more} more" if more > 0 else "")
            raise ConfigError(f"{origin}: {shown}") from None

    def to_yaml(self) -> str:
        """The exact configuration, which `load` reads back, without keys and passwords in URIs.

        A written configuration may be published. Without them a URI takes the credentials of the environment.
        """
        return yaml.safe_dump(without_secrets(self.model_dump(mode="json")), sort_keys=False, allow_unicode=True)


def without_secrets(value: Any) -> Any:
    """Nested values without keys and passwords in URIs: `s3://KEY:SECRET@bucket` → `s3://bucket`."""
    if isinstance(value, dict):
        return {without_secrets(key): without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_secrets, value))
    if not isinstance(value, str) or (redacted := redact(value)) == value:
        return value
    # Remove the parameters that `redact` has masked, then separators that are left at the end.
    text = re.sub(r"(?<=[?&;])[\w.%-]+=\*\*\*(?:&|;|(?=\W)|$)", "", redacted.replace("***@", ""))
    return re.sub(r"[?&;]+(?=$|[\s'\"`])", "", text)


def _unusable(value: Any) -> Iterator[str]:
    """Yield a reason for each value that has the right type but cannot be stored or used in arithmetic."""
    if isinstance(value, str | Path):
        text = str(value)
        if "\0" in text:
            yield "a NUL character"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            yield "half a surrogate pair, which UTF-8 does not have"
    elif isinstance(value, int) and value.bit_length() > 63:
        yield f"an integer of {value.bit_length()} bits, more than 63"
    elif isinstance(value, dict):
        for inner in (*value, *value.values()):
            yield from _unusable(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _unusable(inner)


def _language(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not a language; write a tag such as 'de'")
    return normalise_tag(value)


def _distinct(values: Any) -> Any:
    """Refuse two spellings of one language: the second would silently replace the first."""
    spellings: dict[str, str] = {}
    for spelling in values if isinstance(values, dict) else ():
        try:
            tag = _language(spelling)
        except ValueError:
            continue  # Reported with its key.
        if tag in spellings:
            raise ValueError(f"{spellings[tag]!r} and {spelling!r} are one language, {tag!r}; keep one of them")
        spellings[tag] = spelling
    return values


Language = Annotated[str, BeforeValidator(_language)]
"""A BCP-47 tag in canonical spelling."""
Languages = Annotated[tuple[Language, ...], AfterValidator(lambda tags: tuple(dict.fromkeys(tags)))]
"""Each language once, in the order of the list."""
ByLanguage = Annotated[dict[Language, _T], BeforeValidator(_distinct)]
"""Language → value."""


def _read(path: AnyPath) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML configuration", code="NO_CONFIG") from None
    except ValueError as error:
        raise ConfigError(f"{_shown(str(path))[1:-1]}: cannot be read as YAML: {error}", code="INVALID_YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, not keys and values", code="INVALID_YAML")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in nested values; list entries are named by their number."""
    key, sign, text = override.partition("=")
    shown = _shown(override)
    if not sign or not key:
        raise ConfigError(f"{shown} is not KEY=VALUE; write for example plan.alpha=0.3", code="INVALID_OVERRIDE")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{shown}: not a valid YAML value ({error}); quote it", code="INVALID_YAML") from None
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise ConfigError(f"{shown}: the key has more than {MAX_DEPTH} parts", code="INVALID_OVERRIDE")
    node: Any = values
    for name in parents:
        if isinstance(node, dict):
            # A section may be missing, or null as in a run's own config.yaml.
            node[name] = {} if node.get(name) is None else node[name]
            node = node[name]
        elif isinstance(node, list) and name in _positions(node):
            node = node[int(name)]
        else:
            raise ConfigError(f"{shown}: {name[:_MAX_SHOWN]!r} has no keys", code="INVALID_OVERRIDE")
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and last in _positions(node):
        node[int(last)] = value
    else:
        raise ConfigError(
            f"{shown}: cannot set {last[:_MAX_SHOWN]!r}, because its parent is {_shown(node)}", code="INVALID_OVERRIDE"
        )


def _positions(entries: list[Any]) -> set[str]:
    return set(map(str, range(len(entries))))


def _describe(error: Any) -> str:
    where = ".".join(str(part)[:_MAX_SHOWN] for part in error["loc"])
    message = " ".join(error["msg"].removeprefix("Value error, ").split())[: 5 * _MAX_SHOWN]
    if not isinstance(error["input"], dict | BaseModel) and error["type"] != "missing":
        message += f" (got {_shown(error['input'])})"
    return f"{where}: {message}" if where else message


def _shown(value: Any) -> str:
    """A value as errors show it, cut to a limited length."""
    try:
        text = repr(value[:_MAX_SHOWN] if isinstance(value, str | bytes) else value)
    except ValueError:  # Python does not print integers of more than 4,300 digits.
        return "an integer of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
