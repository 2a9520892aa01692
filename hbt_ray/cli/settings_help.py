"""The `key=value` settings of a command as text: key, type, default and meaning, from the configuration classes.

Importing those classes imports torch and Ray, which takes seconds. So their source is parsed instead; a test compares
what is read here with the classes themselves.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

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
COMMANDS = ("prepare", "mine", "train", "posthoc", "evaluate", "index build", "tune", "doctor")
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


@dataclass(frozen=True)
class _Scope:
    """The top-level names of one module."""

    defined: dict[str, ast.ClassDef | ast.expr]
    imported: dict[str, tuple[str, str]]
    """Name → module and name there."""


@dataclass(frozen=True)
class _Class:
    module: str
    node: ast.ClassDef


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
    if command not in COMMANDS:
        command, inner = "train", section
    settings = command_settings(command)
    shown = [setting for setting in settings if not inner or f"{setting.key}.".startswith(f"{inner}.")]
    if not shown:
        sections = dict.fromkeys(setting.key.partition(".")[0] for setting in settings if "." in setting.key)
        raise ConfigError(
            f"{section!r} is neither a command nor a section of a training configuration. Commands: "
            f"{', '.join(COMMANDS)}; sections: {', '.join(sections)}"
        )
    print(format_settings(shown))


def command_settings(command: str) -> list[Setting]:
    """The settings of a command such as `evaluate` or `index build`; empty if it has none."""
    table = _scope(_SETTINGS_MODULE).defined["COMMAND_SETTINGS"]
    assert isinstance(table, ast.Dict)
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == command and isinstance(value, ast.Name):
            resolved = _resolve(_SETTINGS_MODULE, value.id)
            assert resolved is not None
            return list(_settings_of(_Class(*resolved), ""))  # type: ignore[arg-type]
    return []


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
    """What to write instead of an option that the command does not have, such as `--batch-size`; empty if unknown."""
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


def _settings_of(owner: _Class, prefix: str, condition: str = "") -> Iterator[Setting]:
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
            which = _kind_of(inner) if len(nested) > 1 or in_list else ""
            below = _settings_of(inner, f"{key}.N." if in_list else f"{key}.", which or condition)
            yield from (setting for setting in below if setting.key.rpartition(".")[2] != "kind" or not which)


def _fields(owner: _Class) -> dict[str, tuple[str, ast.AnnAssign, str]]:
    """Name → module, assignment and docstring of each field, those of base classes first."""
    fields: dict[str, tuple[str, ast.AnnAssign, str]] = {}
    for base in owner.node.bases:
        resolved = _resolve(owner.module, ast.unparse(base))
        if resolved and isinstance(resolved[1], ast.ClassDef):
            fields |= _fields(_Class(resolved[0], resolved[1]))
    body = owner.node.body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if statement.target.id.startswith("_") or ast.unparse(statement.annotation).startswith("ClassVar"):
            continue
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        meaning = " ".join(str(following.value.value).split()) if is_text else ""  # type: ignore[union-attr]
        fields[statement.target.id] = (owner.module, statement, meaning)
    return fields


def _nested(module: str, annotation: ast.expr) -> Iterator[_Class]:
    """The configuration classes that an annotation names, also through aliases."""
    names = [node for node in ast.walk(annotation) if isinstance(node, ast.Name) and node.id not in _TYPES]
    for node in sorted(names, key=lambda node: (node.lineno, node.col_offset)):
        if resolved := _resolve(module, node.id):
            if isinstance(resolved[1], ast.ClassDef):
                if _is_config(_Class(resolved[0], resolved[1])):
                    yield _Class(resolved[0], resolved[1])
            else:
                yield from _nested(resolved[0], resolved[1])


def _is_config(owner: _Class) -> bool:
    for base in map(ast.unparse, owner.node.bases):
        resolved = _resolve(owner.module, base)
        if base == "Config" or (
            resolved and isinstance(resolved[1], ast.ClassDef) and _is_config(_Class(resolved[0], resolved[1]))
        ):
            return True
    return False


def _kind_of(owner: _Class) -> str:
    fields = _fields(owner)
    return f"kind={_type_text(owner.module, fields['kind'][1].annotation)}" if "kind" in fields else ""


def _type_text(module: str, node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Name(id=name):
            resolved = _resolve(module, name)
            if resolved is None:
                return name
            if isinstance(resolved[1], ast.ClassDef):
                return (
                    _kind_of(_Class(resolved[0], resolved[1]))
                    or f"{{{', '.join(_fields(_Class(resolved[0], resolved[1])))}}}"
                )
            return _type_text(resolved[0], resolved[1])
        case ast.BinOp(left=left, right=right):
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


def _literal(module: str, node: ast.expr) -> str:
    """A constant as YAML has it; names of constants are looked up."""
    if isinstance(node, ast.Name) and (resolved := _resolve(module, node.id)) and isinstance(resolved[1], ast.expr):
        return _literal(resolved[0], resolved[1])
    if isinstance(node, ast.Tuple | ast.List):
        return f"[{', '.join(_literal(module, item) for item in node.elts)}]"
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return value if isinstance(value, str) and value else json.dumps(value)


@cache
def _scope(module: str) -> _Scope:
    path = Path(hbt_ray.__file__).parent.joinpath(*module.split(".")[1:])
    if not (path := path.with_suffix(".py")).exists():
        path = path.with_suffix("") / "__init__.py"
    scope = _Scope({}, {})
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            scope.defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            scope.defined[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            scope.defined[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hbt_ray."):
            scope.imported.update({alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names})
    return scope


def _resolve(module: str, name: str) -> tuple[str, ast.ClassDef | ast.expr] | None:
    """The module that defines a name, and its definition; None if it comes from a library."""
    scope = _scope(module)
    if name in scope.defined:
        return module, scope.defined[name]
    return _resolve(*scope.imported[name]) if name in scope.imported else None
