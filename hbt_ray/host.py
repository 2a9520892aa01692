"""CPUs and memory of the machine: how many CPUs this process may use, and whether it keeps freed memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""


def usable_cpus() -> int:
    """Number of CPUs that this process may use.

    It is smaller than the machine's number if a container's quota, the CPU affinity or `LOKY_MAX_CPU_COUNT` limits it.
    More threads than this wait for each other.
    """
    from joblib import cpu_count

    return int(cpu_count())


def keep_freed_memory() -> None:
    """Keep freed memory in this process for the next tensors.

    By default glibc returns every large block to the system, which then clears its pages again for each tensor of each
    layer. That costs an eighth of an encoder's time on two CPUs. With this call the process stays at its peak size. In
    threads it helps only if MALLOC_ARENA_MAX=1 was set when the process started. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)  # The largest `int`: no memory is returned.
