"""Memory, shared memory and open files of the nodes."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.doctor.finding import Finding, Level, by_value, or_well
from hbt_ray.doctor.machine import Machine

GIB = 2**30
LEAST_OPEN_FILES = 4096


def check_shared_memory(machines: Sequence[Machine]) -> list[Finding]:
    """Ray keeps objects in /dev/shm, or on disk where they do not fit there."""
    small = [each for each in machines if each.shm_bytes < each.object_store_bytes]
    problems = []
    for level, of in (
        (Level.FAILURE, [each for each in small if each.shm_bytes < GIB]),
        (Level.WARNING, [each for each in small if each.shm_bytes >= GIB]),
    ):
        sizes = {each.name: f"{gib(each.shm_bytes)} for a store of {gib(each.object_store_bytes)}" for each in of}
        if sizes:
            told = f"/dev/shm is smaller than the object store, so Ray keeps objects on disk: {by_value(sizes)}"
            most = max(each.object_store_bytes for each in of) / GIB
            remedy = f"start the container with --shm-size={most + 1:.0f}g (Kubernetes: emptyDir with medium: Memory)"
            problems.append(Finding("shared memory", level, told, remedy))
    return or_well(problems, "shared memory", f"/dev/shm has {_least(machines, 'shm_bytes')} or more")


def check_memory(machines: Sequence[Machine]) -> list[Finding]:
    """Of the object store and of the node: 1 GiB or more."""
    problems = []
    if tight := {each.name: gib(each.object_store_bytes) for each in machines if each.object_store_bytes < GIB}:
        remedy = "raise `ray start --object-store-memory`, or take larger nodes"
        problems.append(Finding("memory", Level.WARNING, f"a small object store: {by_value(tight)}", remedy))
    if full := {each.name: gib(each.free_bytes) for each in machines if each.free_bytes < GIB}:
        remedy = "end what else runs there, or take larger nodes"
        problems.append(Finding("memory", Level.WARNING, f"little memory is available: {by_value(full)}", remedy))
    store, free = _least(machines, "object_store_bytes"), _least(machines, "free_bytes")
    return or_well(problems, "memory", f"{free} or more available; object stores of {store} or more")


def check_open_files(machines: Sequence[Machine]) -> list[Finding]:
    few = {each.name: each.open_files for each in machines if 0 <= each.open_files < LEAST_OPEN_FILES}
    told = f"a process may hold few files open: {by_value(few)}"
    remedy = "raise it before `ray start`: `ulimit -n 65536`, or `docker run --ulimit nofile=65536:65536`"
    problems = [Finding("open files", Level.WARNING, told, remedy)] if few else []
    limits = [each.open_files for each in machines if each.open_files >= 0]
    return or_well(problems, "open files", f"{min(limits):,} or more a process" if limits else "without end")


def gib(count: float) -> str:
    return f"{count / GIB:,.1f} GiB"


def _least(machines: Sequence[Machine], size: str) -> str:
    return gib(min((getattr(each, size) for each in machines), default=0))
