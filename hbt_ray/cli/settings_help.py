"""The `key=value` settings of a command as text: key, type, default and meaning, from the configuration classes.

Importing those classes imports torch and Ray, which takes seconds. So their source is parsed instead; a test compares
the parsed settings with the classes themselves.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

import hbt_ray
from hbt_ray.errors import ConfigError

_SETTINGS_MODULE = "hbt_ray.cli.settings"
_TYPES = {
    "str": "text", "int": "integer", "float": "number", "bool": "true | false", "Path": "path", "Name": "name",
    "Location": "path or URI", "Language": "language tag", "Languages": "list of language tags", "Any": "any value",
    "Ranks": "FIRST:LAST",
}  # fmt: skip
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_RENAMED_OPTIONS = {
    "rescore": "rescorer.model=VALUE",
    "storage": "storage_path=VALUE",
    "no_network": "network=false",
    "policy": "plan.policy=VALUE",
    "folder": "--out FOLDER",
}
"""Options of commands that are now settings of another name."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a configuration."""

    key: str
    type: str
    default: str | None
    """Default value as YAML writes it; None if the key is required or has keys below it."""
    meaning: str
    condition: str = ""
    """The kind of entry that has the key, such as `kind=squad`."""


class _Definition(NamedTuple):
    """A class or the value of a constant, and the module that defines it."""

    module: str
    node: ast.AST


def config(
    section: Annotated[
        str,
        typer.Argument(
            metavar="[SECTION]",
            help="A command such as evaluate, or a section of a training configuration such as plan.",
        ),
    ] = "train",
) -> None:
    """List the settings of a command or of a section of a training configuration."""
    command, _, inner = section.partition(".")
    command = "index build" if command == "index" else command
    if command not in _commands():
        command, inner = "train", section
    settings = command_settings(command)
    shown = [setting for setting in settings if not inner or f"{setting.key}.".startswith(f"{inner}.")]
    if not shown:
        sections = dict.fromkeys(setting.key.partition(".")[0] for setting in settings if "." in setting.key)
        raise ConfigError(
            f"{section!r} is neither a command nor a section of a training configuration. Commands: "
            f"{', '.join(_commands())}; sections: {', '.join(sections)}",
            code="UNKNOWN_SECTION",
        )
    print(format_settings(shown))


def command_settings(command: str) -> list[Setting]:
    """The settings of a command such as `evaluate` or `index build`; empty if it has none."""
    owner = _commands().get(command)
    return list(_settings_of(owner, "")) if owner else []


def format_settings(settings: list[Setting], width: int = 100) -> str:
    """The settings as an indented list."""
    lines = []
    for setting in settings:
        condition = f"  if {setting.condition}" if setting.condition else ""
        default = f"  [default: {setting.default}]" if setting.default is not None else ""
        lines.append(f"  {setting.key}={setting.type}{condition}{default}")
        if setting.meaning:
            lines.append(fill(setting.meaning, width, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


def option_hint(command: str, option: str) -> str:
    """The setting to write instead of an option that does not exist, such as `--batch-size`; empty if unknown."""
    name = option.lstrip("-").replace("-", "_")
    if name in _RENAMED_OPTIONS:
        return _RENAMED_OPTIONS[name]
    keys = dict.fromkeys(setting.key for setting in command_settings(command))
    if name in keys:
        return f"{name}=VALUE"
    if matches := [key for key in keys if key.rpartition(".")[2] == name]:
        return " or ".join(f"{key}=VALUE" for key in matches[:3])
    return f"{name}.KEY=VALUE" if any(key.startswith(f"{name}.") for key in keys) else ""


class SettingsCommand(TyperCommand):
    """A command whose `--help` ends with its settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        command = ctx.command_path.partition(" ")[2]
        formatter.write(f"Settings, as KEY=VALUE:\n\n{format_settings(command_settings(command))}\n")


def _commands() -> dict[str, _Definition]:
    """Command → class of its settings."""
    _, table = _resolve(_SETTINGS_MODULE, "COMMAND_SETTINGS") or (None, None)
    assert isinstance(table, ast.Dict)
    owners = {str(ast.literal_eval(key)): _resolve(_SETTINGS_MODULE, ast.unparse(value))
              for key, value in zip(table.keys, table.values, strict=True) if key}  # fmt: skip
    return {command: owner for command, owner in owners.items() if owner}


def _settings_of(owner: _Definition, prefix: str, condition: str = "") -> Iterator[Setting]:
    listed: dict[str, str] = {}
    """Type → key of the lists so far; a second list of the same entries refers to the first."""
    for name, (module, field, meaning) in _fields(owner).items():
        key, annotation = prefix + name, ast.unparse(field.annotation)
        nested = list(_nested(module, field.annotation))
        in_list = annotation.startswith(("tuple[", "list["))
        if not (len(nested) == 1 and isinstance(field.annotation, ast.Name)):  # A section has no value of its own.
            shape = f"list like {listed[annotation]}" if annotation in listed else _type_text(module, field.annotation)
            yield Setting(key, shape + _bounds(module, field), _default(module, field.value), meaning, condition)
        if nested and in_list and listed.setdefault(annotation, key) != key:
            continue
        for inner in nested:
            kind = _kind_of(inner) if len(nested) > 1 or in_list else ""
            below = _settings_of(inner, f"{key}.N." if in_list else f"{key}.", kind or condition)
            # The kind is shown as the condition of the other keys.
            yield from (setting for setting in below if setting.key.rpartition(".")[2] != "kind" or not kind)


def _fields(owner: _Definition) -> dict[str, tuple[str, ast.AnnAssign, str]]:
    """Name → module, assignment and docstring of each field, base classes first; none if it is not a class."""
    module, node = owner
    fields: dict[str, tuple[str, ast.AnnAssign, str]] = {}
    if not isinstance(node, ast.ClassDef):
        return fields
    for base in node.bases:
        if resolved := _resolve(module, ast.unparse(base)):
            fields |= _fields(resolved)
    # The docstring of a field is the statement after it.
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or ast.unparse(statement.annotation).startswith("ClassVar"):
            continue
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        meaning = " ".join(str(following.value.value).split()) if is_text else ""  # type: ignore[union-attr]
        fields[ast.unparse(statement.target)] = (module, statement, meaning)
    return fields


def _nested(module: str, annotation: ast.AST) -> Iterator[_Definition]:
    """The configuration classes that an annotation names, also through aliases."""
    names = [node for node in ast.walk(annotation) if isinstance(node, ast.Name) and node.id not in _TYPES]
    for node in sorted(names, key=lambda node: (node.lineno, node.col_offset)):
        if (resolved := _resolve(module, node.id)) is None:
            continue
        if _fields(resolved):
            yield resolved
        elif not isinstance(resolved.node, ast.ClassDef):
            yield from _nested(*resolved)


def _kind_of(owner: _Definition) -> str:
    module, field, _ = _fields(owner).get("kind", ("", None, ""))
    return f"kind={_type_text(module, field.annotation)}" if field else ""


def _type_text(module: str, node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Name(id=name):
            resolved = _resolve(module, name)
            if resolved is None:
                return name
            if fields := _fields(resolved):
                return _kind_of(resolved) or f"{{{', '.join(fields)}}}"
            return _type_text(*resolved)
        case ast.BinOp(left=left, right=right):
            # `| None` means that a key is optional, which its default shows.
            parts = [_type_text(module, part) for part in (left, right) if ast.unparse(part) != "None"]
            return " | ".join(parts)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            items = values.elts if isinstance(values, ast.Tuple) else [values]
            return " | ".join(_literal(module, item) for item in items)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=items)):
            if name == "Annotated":
                return _type_text(module, items[0])
            if name == "dict":
                return f"mapping of {_type_text(module, items[0])} to {_type_text(module, items[1])}"
            if ast.unparse(items[-1]) == "...":
                return f"list of {_type_text(module, items[0])}"
            return "[" + ", ".join(_type_text(module, item) for item in items) + "]"
        case ast.Subscript(value=ast.Name(id="ByLanguage"), slice=item):
            return f"mapping of language tag to {_type_text(module, item)}"
        case ast.Subscript(slice=item):
            return f"list of {_type_text(module, item)}"
    return ast.unparse(node)


def _bounds(module: str, field: ast.AnnAssign) -> str:
    calls = [node for node in ast.walk(field) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field"]
    bounds = [
        f"{_BOUNDS[keyword.arg]} {_literal(module, keyword.value)}"
        for call in calls
        for keyword in call.keywords
        if keyword.arg in _BOUNDS
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def _default(module: str, node: ast.expr | None) -> str | None:
    if not isinstance(node, ast.Call):
        return None if node is None else _literal(module, node)
    if ast.unparse(node.func) != "Field":
        return _literal(module, node.args[0]) if node.args else None  # `Path("runs")`, or a section.
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if "default_factory" in keywords:
        return {"dict": "{}", "list": "[]", "tuple": "[]"}.get(ast.unparse(keywords["default_factory"]))
    value = node.args[0] if node.args else keywords.get("default")
    return None if value is None or ast.unparse(value) == "..." else _default(module, value)


def _literal(module: str, node: ast.AST) -> str:
    """A constant as YAML writes it; names of constants are looked up."""
    if isinstance(node, ast.Name) and (resolved := _resolve(module, node.id)):
        return _literal(*resolved)
    if isinstance(node, ast.Tuple | ast.List):
        return f"[{', '.join(_literal(module, item) for item in node.elts)}]"
    try:
        value = ast.literal_eval(ast.unparse(node))
    except ValueError:
        return ast.unparse(node)
    return value if isinstance(value, str) and value else json.dumps(value)


@cache
def _names(module: str) -> dict[str, _Definition | tuple[str, str]]:
    """The top-level names of a module with their definitions, or the module and name that they are imported from."""
    path = Path(hbt_ray.__file__).parent.joinpath(*module.split(".")[1:])
    path = file if (file := path.with_suffix(".py")).exists() else path / "__init__.py"
    names: dict[str, _Definition | tuple[str, str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = _Definition(module, node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            names[ast.unparse(target)] = _Definition(module, node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hbt_ray."):
            names.update({alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names})
    return names


def _resolve(module: str, name: str) -> _Definition | None:
    """The definition of a name; None if it comes from a library."""
    definition = _names(module).get(name)
    return definition if definition is None or isinstance(definition, _Definition) else _resolve(*definition)
