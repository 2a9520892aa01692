"""Who is there, and whether there is room for a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hbt_ray.doctor.finding import Finding, Level, by_value, names, number_of
from hbt_ray.train.workers import WorkersConfig, missing_resources


def check_presence(nodes: Collection[str], missing: Mapping[str, str]) -> list[Finding]:
    """Every node that Ray counts as up answers."""
    if missing:
        told = f"cannot be examined: {by_value(missing)}"
        remedy = (
            "look at that machine and its raylet.out (/tmp/ray/session_latest/logs); end the node if it hangs. A slow "
            "disk may need a larger --seconds"
        )
        return [Finding("nodes", Level.FAILURE, told, remedy)]
    return [Finding("nodes", Level.OK, f"{number_of(list(nodes))}: {names(nodes)}")]


def check_room(workers: WorkersConfig, have: Mapping[str, float]) -> list[Finding]:
    """The workers of a run fit into what the cluster has now."""
    lack = missing_resources(workers, have, {})
    asked = ", ".join(f"{amount:g} {name}" for name, amount in (lack or workers.each).items())
    if not lack:
        return [Finding("workers", Level.OK, f"room for {workers}, each with {asked}")]
    there = ", ".join(f"{have.get(name, 0):g} {name}" for name in lack)
    remedy = "lower workers.count or workers.cpus, or add nodes"
    if not have.get("GPU") and "GPU" in lack:
        remedy = "set workers.gpu=false, or add nodes with GPUs (Ray counts none)"
    told = f"{workers.least} workers need {asked}; the cluster has {there}"
    return [Finding("workers", Level.FAILURE, told, remedy)]
