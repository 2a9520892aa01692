"""What a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    ADVICE = "advice"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    """The subject, such as storage."""
    level: Level
    told: str
    """What was found, with the names of the nodes."""
    remedy: str = ""


def or_well(problems: Sequence[Finding], check: str, told: str) -> list[Finding]:
    """The problems; without any, that all is well."""
    return list(problems) or [Finding(check, Level.OK, told)]


def failed(findings: Iterable[Finding]) -> bool:
    return any(finding.level is Level.FAILURE for finding in findings)


def names(nodes: Iterable[str]) -> str:
    return ", ".join(sorted(nodes))


def by_value(values: Mapping[str, object]) -> str:
    """`{"a": 1, "b": 2, "c": 1}` → `1 (a, c), 2 (b)`."""
    alike: dict[str, list[str]] = {}
    for node, value in values.items():
        alike.setdefault(str(value), []).append(node)
    return ", ".join(f"{value} ({names(nodes)})" for value, nodes in sorted(alike.items()))


def number_of(nodes: Sequence[object]) -> str:
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
