"""The network between the ranks of a run: whether they meet, and how fast they sum a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hbt_ray.doctor.finding import Finding, Level, by_value, names
from hbt_ray.doctor.ranks import MEBIBYTES

STAGES = ("silent", "store", "group", "reduce", "done")
SLOW_MB = 100
"""A second; a model of 100 million weights then takes 4 s a step for its gradients alone."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """How far a rank came."""

    stage: str
    """One of `STAGES`: it did not answer, did not reach the first rank, did not reach all ranks, did not sum."""
    error: str = ""
    seconds: float = 0
    """Of a round."""


def check_network(backend: str, meetings: Mapping[str, Meeting]) -> list[Finding]:
    """Bandwidth of the all-reduce, or who could not take part.

    Args:
        meetings: by name of the rank's node, the first rank first.
    """
    check, first = f"network, {backend}", next(iter(meetings))
    stage = min((meeting.stage for meeting in meetings.values()), key=STAGES.index)
    if stage != "done":
        # Ranks that came further only waited for those that did not.
        behind = {name: meeting.error for name, meeting in meetings.items() if meeting.stage == stage}
        told = {
            "silent": f"not all ranks answered: {by_value(behind)}",
            "store": f"{names(behind)} cannot reach {first}: {by_value(behind)}",
            "group": f"the ranks on {names(behind)} do not reach each other: {by_value(behind)}",
            "reduce": f"the ranks met and could not sum a block: {by_value(behind)}",
        }[stage]
        return [Finding(check, Level.FAILURE, told, _remedy(backend))]
    slowest = max(meetings, key=lambda name: meetings[name].seconds)
    speed = MEBIBYTES * 2**20 / 1e6 / max(meetings[slowest].seconds, 1e-9)
    ranks = f"{len(meetings)} rank{'s' * (len(meetings) > 1)}"
    told = f"{speed:,.0f} MB/s: {ranks} sum {MEBIBYTES} MiB in {meetings[slowest].seconds * 1e3:,.1f} ms"
    if speed < SLOW_MB:
        remedy = f"name the fast interface ({_variable(backend)}), and put nodes into one zone or placement group"
        return [Finding(check, Level.WARNING, f"{told}; the slowest is {slowest}", remedy)]
    return [Finding(check, Level.OK, told)]


def _variable(backend: str) -> str:
    return f"{backend.upper()}_SOCKET_IFNAME"


def _remedy(backend: str) -> str:
    return (
        "open all TCP ports between the nodes; where a node has several interfaces, name the one for ranks in the "
        f"runtime environment ({_variable(backend)}=eth0)"
    )
