"""YAML for configurations: bounded, without duplicate keys, and without dates, times and `no` as a boolean.

It differs from `yaml.safe_load` (YAML 1.1) in four ways:

- Plain scalars have the types of the core schema of YAML 1.2: null, booleans (`true`, `false`), decimal numbers. A date
  (`2020-01-01`), a time (`12:30`), `no`, `on` and `007` are strings.
- Tags (`!!timestamp`, `!!python/object`) are errors.
- A duplicate key in a mapping is an error; `safe_load` keeps the last value.
- Size, depth and the number of nodes are limited. An alias counts as the nodes that it refers to: 500 bytes of nested
  aliases (the "billion laughs") would otherwise become gigabytes in code that walks the values.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from hbt_ray.storage import AnyPath

MAX_BYTES = 4 << 20
"""Size of a file; the longest configurations list some thousand files."""
MAX_DEPTH = 50
MAX_NODES = 100_000
MAX_DIGITS = 100
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: AnyPath) -> Any:
    """The value of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is not valid YAML, or exceeds a limit. The message is one line with the
            place.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return parse_yaml(content.decode("utf-8-sig"))  # Without the byte order mark that some editors write.


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: the text is not valid YAML or exceeds a limit. The message is one line with the place.
    """
    try:
        return _unshared(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{place}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None


def _unshared(value: Any) -> Any:
    """A copy in which no dict or list is shared: PyYAML makes one object for all aliases of an anchor."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the differences that the module's docstring lists."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._num_nodes = 0
        self._sizes: dict[str, int] = {}
        """Anchor → number of nodes that an alias of it refers to."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()
        if self.check_event(yaml.AliasEvent):
            # An anchor without a size is still being read, so the alias lies inside its own node.
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise ComposerError(None, None, f"alias {str(event.anchor)[:40]!r} contains itself", event.start_mark)
            self._count(self._sizes.get(event.anchor, 1), event)
            return super().compose_node(parent, index)
        if getattr(event, "tag", None) not in (None, "!"):  # `!` alone only makes a scalar a string.
            raise ComposerError(
                None, None, f"tag {event.tag[:40]!r} is not allowed; write a plain value", event.start_mark
            )
        before = self._num_nodes
        self._count(1, event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._num_nodes - before
        return node

    def _count(self, num_nodes: int, event: Any) -> None:
        self._num_nodes += num_nodes
        if self._num_nodes > MAX_NODES:
            raise ComposerError(None, None, f"more than {MAX_NODES:,} values, including aliases", event.start_mark)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value if isinstance(node, MappingNode) else ():
            # `<<` merges another mapping and may repeat; keys that are not scalars fail in `super`.
            if key_node.tag == _MERGE or not isinstance(key_node, ScalarNode):
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConstructorError(None, None, f"duplicate key {str(key)[:80]!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        return int(self._number(node))

    def construct_yaml_float(self, node: ScalarNode) -> float:
        return float(self._number(node).replace(".inf", "inf").replace(".nan", "nan"))

    def _number(self, node: ScalarNode) -> str:
        text = self.construct_scalar(node).lower()
        if len(text) > MAX_DIGITS:
            raise ConstructorError(None, None, f"a number of {len(text):,} digits", node.start_mark)
        return text


# Type → (pattern, possible first characters; "\0" is the empty scalar). Each is a subset of YAML 1.1, so that what
# `yaml.safe_dump` writes reads back equal.
_SCALAR_PATTERNS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
_Loader.yaml_implicit_resolvers = {}  # Without those of YAML 1.1.
for _name, (_pattern, _first) in _SCALAR_PATTERNS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}",
        re.compile(f"^(?:{_pattern})$"),
        ["" if character == "\0" else character for character in _first],
    )
for _name, _construct in {"int": _Loader.construct_yaml_int, "float": _Loader.construct_yaml_float}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)
