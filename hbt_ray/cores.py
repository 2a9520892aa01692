"""The cores of this process."""

from __future__ import annotations


def usable_cores() -> int:
    """As many as the process may use: fewer than the machine has where a container's quota, an affinity or
    `LOKY_MAX_CPU_COUNT` says so. Threads beyond them wait for one another."""
    from joblib import cpu_count

    return int(cpu_count())
