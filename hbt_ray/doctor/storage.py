"""The folder of the runs: one and the same on all nodes and at the driver, writable, with room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hbt_ray.doctor.finding import Finding, Level, by_value, names, number_of, or_well
from hbt_ray.doctor.machine import DRIVER
from hbt_ray.doctor.memory import GIB, gib

FAILURE_BYTES = GIB
WARNING_BYTES = 10 * GIB


@dataclass(frozen=True, slots=True)
class Sight:
    """What one place could do with the folder."""

    error: str = ""
    """Why it could not write or read there."""
    free_bytes: int = 0
    seen: frozenset[str] = frozenset()
    """Those whose files it read."""


def check_storage(path: str, sights: Mapping[str, Sight]) -> list[Finding]:
    """Everyone writes, everyone reads what the others wrote, and there is room.

    Args:
        sights: of every node and of `DRIVER`, by name.
    """
    writers = {name: sight for name, sight in sights.items() if not sight.error}
    problems = []
    if errors := {name: sight.error for name, sight in sights.items() if sight.error}:
        told = f"{path} cannot be used: {by_value(errors)}"
        problems.append(Finding("storage", Level.FAILURE, told, _writable(path)))
    if apart := _apart(writers):
        told = f"{path} is not the same folder everywhere: what the others wrote is not seen by {'; '.join(apart)}"
        remedy = "mount one shared file system there on all nodes and at the driver, or give its path by --storage"
        problems.append(Finding("storage", Level.FAILURE, told, remedy))
    for level, low, high in ((Level.FAILURE, -1, FAILURE_BYTES), (Level.WARNING, FAILURE_BYTES, WARNING_BYTES)):
        if short := {name: gib(sight.free_bytes) for name, sight in writers.items() if low < sight.free_bytes <= high}:
            told = f"little is free in {path}: {by_value(short)}"
            problems.append(Finding("storage", level, told, "remove old runs or their vectors/, or enlarge the volume"))
    least = min((sight.free_bytes for sight in writers.values()), default=0)
    nodes = [name for name in sights if name != DRIVER]
    return or_well(
        problems, "storage", f"{path}: one folder at the driver and on {number_of(nodes)}, {gib(least)} free"
    )


def _writable(path: str) -> str:
    return f"let the user that Ray runs as write below {path} (in the image: 1000), or give another path by --storage"


def _apart(sights: Mapping[str, Sight]) -> list[str]:
    """The groups, other than the largest, of those who see each other's files."""
    groups: list[set[str]] = []
    for name, sight in sights.items():
        mine = {name} | {other for other in sight.seen if other in sights and name in sights[other].seen}
        for group in [group for group in groups if group & mine]:
            groups.remove(group)
            mine |= group
        groups.append(mine)
    # Of two that are equally large, the driver's is where the run folder is.
    groups.sort(key=lambda group: (len(group), DRIVER in group), reverse=True)
    return [names(group) for group in groups[1:]]
